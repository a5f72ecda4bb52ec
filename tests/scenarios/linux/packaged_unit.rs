//! The unit under which an administrator runs the agent: it bounds what the agent could be made to use, and what it may do.

use std::process::Command;

use gatewatch_tests::checkout;

const UNIT: &str = "packaging/gatewatch.service";

/// What the unit says of its service, in order: keys and values.
fn service() -> Vec<(String, String)> {
    let unit = std::fs::read_to_string(checkout().join(UNIT)).unwrap();
    let of_service = unit.lines().skip_while(|line| *line != "[Service]").skip(1);
    let of_service = of_service.take_while(|line| !line.starts_with('['));
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    of_service.filter(|line| !line.starts_with('#')).filter_map(pair).collect()
}

/// The one value of a key.
fn value<'a>(service: &'a [(String, String)], key: &str) -> &'a str {
    let values: Vec<&str> =
        service.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect();
    assert_eq!(values.len(), 1, "{key}= is {values:?}");
    values[0]
}

/// A number, or so many mebibytes; nothing else is a bound.
fn bound(service: &[(String, String)], key: &str) -> u64 {
    let value = value(service, key);
    let (digits, factor) = value.strip_suffix('M').map_or((value, 1), |digits| (digits, 1 << 20));
    let number = digits.parse::<u64>();
    assert!(number.is_ok(), "{key}={value} is no bound");
    number.unwrap() * factor
}

scenario!(the_unit_bounds_what_the_agent_uses, needs(Checkout), || {
    let service = service();
    // More than the agent takes by itself, and with all the connections that it admits; less than a host would miss.
    for (key, at_least, at_most) in
        [("MemoryMax", 128 << 20, 1 << 30), ("LimitNOFILE", 1024, 65_536), ("TasksMax", 32, 512)]
    {
        let bound = bound(&service, key);
        assert!((at_least..=at_most).contains(&bound), "{key}={bound}");
    }
    // A wrong configuration is no reason to start it again and again, but all else is.
    assert_eq!(value(&service, "Restart"), "on-failure");
    assert_eq!(value(&service, "RestartPreventExitStatus"), "2");
});

scenario!(each_line_of_the_unit_that_is_explained_is_there, needs(Checkout), || {
    let document = std::fs::read_to_string(checkout().join("docs/security.md")).unwrap();
    let (_, chapter) = document.split_once("\n## The unit, line by line\n").unwrap();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let named: Vec<&str> =
        rows.flat_map(|cell| cell.split('`')).filter(|word| word.contains(char::is_uppercase)).collect();
    assert!(named.len() > 10, "{named:?}");
    let service = service();
    for line in named {
        let (key, wanted) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
        let is_it =
            |(known, value): &(String, String)| known == key && wanted.is_none_or(|wanted| wanted == value);
        assert!(service.iter().any(is_it), "the unit has no {line}");
    }
});

scenario!(the_unit_is_as_tight_as_it_is_said_to_be, needs(Checkout, SystemdAnalyze), || {
    let document = std::fs::read_to_string(checkout().join("docs/security.md")).unwrap();
    let (_, said) = document.split_once("`systemd-analyze security` says ").unwrap();
    let said: f64 = said.split(' ').next().unwrap().parse().unwrap();
    // In tenths, and no more than that.
    let most = format!("--threshold={:.0}", said * 10.0);
    let mut judge = Command::new("systemd-analyze");
    judge.args(["security", "--no-pager", "--offline=true", &most, UNIT]).current_dir(checkout());
    let output = judge.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("gatewatch.service: {said:.1}")), "{text}");
});
