//! Whatever the command line is.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_command_line_gets_a_verdict(argv in proptest::collection::vec(".{0,20}", 0..8)) {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        judge(&process(&argv));
    }

    #[test]
    fn without_the_word_nothing_matches(argv in proptest::collection::vec("[a-f/.-]{0,12}", 0..8)) {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        prop_assert_ne!(verdict(&argv), Verdict::Match);
    }

    #[test]
    fn case_and_separators_do_not_matter(upper in any::<bool>(), back in any::<bool>(), exe in any::<bool>()) {
        let mut program = format!("/opt/bin/openclaw{}", if exe { ".exe" } else { "" });
        if upper { program = program.to_uppercase(); }
        if back { program = program.replace('/', "\\"); }
        prop_assert_eq!(verdict(&[&program, "gateway"]), Verdict::Match);
    }

    #[test]
    fn root_options_before_the_subcommand_do_not_matter(
        options in proptest::collection::vec(prop_oneof![
            Just(vec!["--dev"]), Just(vec!["--profile", "gateway"]), Just(vec!["--log-level=info"])
        ], 0..5),
        word in prop_oneof![Just("gateway"), Just("status")],
    ) {
        let mut argv = vec!["openclaw"];
        argv.extend(options.into_iter().flatten());
        argv.push(word);
        let expected = if word == "gateway" { Verdict::Match } else { Verdict::Other };
        prop_assert_eq!(verdict(&argv), expected);
    }
}

proptest! {
    // Each case writes files.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Options that are known, in any order and number, don't hide the script.
    #[test]
    fn known_options_do_not_matter(
        options in proptest::collection::vec(prop_oneof![
            Just(vec!["--import", "tsx"]), Just(vec!["--max-old-space-size=512"]), Just(vec!["--inspect"]),
            Just(vec!["-r", "gateway"]), Just(vec!["--title", "dist/index.js"]), Just(vec!["--no-warnings"]),
        ], 0..6),
        runtime in prop_oneof![Just("node"), Just("node-22"), Just("C:\\n\\NODE.EXE")],
    ) {
        let folder = package("openclaw");
        let script = text(folder.path().join("dist/index.js"));
        let mut argv = vec![runtime];
        argv.extend(options.into_iter().flatten());
        argv.extend([&*script, "gateway"]);
        prop_assert_eq!(verdict(&argv), Verdict::Match);
    }

    /// With an option that is not known a gateway may not be recognised, but it is never taken for another process.
    #[test]
    fn an_unknown_option_never_makes_a_gateway_another(
        name in "--[a-z]{3,12}", value in proptest::option::of("[a-z0-9/.]{1,9}"), before in any::<bool>(),
    ) {
        let folder = package("openclaw");
        let script = text(folder.path().join("dist/index.js"));
        let mut option = vec![&*name];
        option.extend(value.as_deref());
        let argv: Vec<&str> = if before {
            ["node"].into_iter().chain(option).chain([&*script, "gateway"]).collect()
        } else {
            ["node", &*script].into_iter().chain(option).chain(["gateway"]).collect()
        };
        let code = ["--eval", "--print", "--run"].contains(&&*name);
        prop_assert!(code || verdict(&argv) != Verdict::Other, "{:?}", argv);
    }
}
