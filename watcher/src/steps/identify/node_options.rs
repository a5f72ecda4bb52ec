//! The options that the JavaScript runtimes take before the script: which of them have the next word as their value.
//!
//! Node's lists are its own (`internalBinding('options')` of 20, 22, 24 and 26), less those that differ between these
//! releases. A word that is in neither list may be one of V8's 860 flags, or newer than this program.

use super::runtime::Runtime;

/// What an option does with the word after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: the next word is read by itself.
    Nothing,
    /// The next word is its value.
    Value,
    /// It is not known.
    Unknown,
    /// The runtime runs what the option says, and no script file.
    Code,
}

/// What an option of the runtime does with the next word.
pub(super) fn takes(runtime: Runtime, option: &str) -> Takes {
    let name = option.split('=').next().unwrap_or(option);
    if ["-e", "--eval", "-p", "--print", "-pe", "--run"].contains(&name) {
        return Takes::Code;
    }
    if option.starts_with("--") && name != option {
        return Takes::Nothing;
    }
    if runtime == Runtime::Bun { bun(option) } else { node(option) }
}

fn node(option: &str) -> Takes {
    match option {
        "-r" | "-C" => return Takes::Value,
        "-i" | "-c" | "-v" | "-h" => return Takes::Nothing,
        _ => {}
    }
    // Node takes underscores for hyphens, as V8 does.
    let Some(name) = option.strip_prefix("--").map(|name| name.replace('_', "-")) else {
        return Takes::Unknown;
    };
    let is_in = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    if is_in(NODE_VALUES, &name) || TSX_VALUES.contains(&name.as_str()) {
        Takes::Value
    } else if is_in(NODE_FLAGS, name.strip_prefix("no-").unwrap_or(&name)) || is_in(V8_FLAGS, &name) {
        Takes::Nothing
    } else {
        Takes::Unknown
    }
}

fn bun(option: &str) -> Takes {
    let name = option.trim_start_matches('-');
    if option.starts_with("--") && BUN_VALUES.split_whitespace().any(|word| word == name) {
        Takes::Value
    } else if BUN_FLAGS.split_whitespace().any(|word| word == name) {
        Takes::Nothing
    } else {
        match option {
            "-r" | "-d" | "-l" => Takes::Value,
            "-b" | "-i" => Takes::Nothing,
            _ => Takes::Unknown,
        }
    }
}

/// tsx's own; `include` goes with `watch`.
const TSX_VALUES: [&str; 3] = ["tsconfig", "include", "exclude"];

const NODE_VALUES: &str = "
    allow-fs-read allow-fs-write conditions cpu-prof-dir cpu-prof-interval cpu-prof-name debug-port diagnostic-dir
    disable-proto disable-warning dns-result-order env-file env-file-if-exists experimental-config-file
    experimental-default-type experimental-loader experimental-package-map experimental-policy
    experimental-sea-config experimental-test-isolation experimental-test-tag-filter heap-prof-dir
    heap-prof-interval heap-prof-name heapsnapshot-near-heap-limit heapsnapshot-signal icu-data-dir import
    input-type inspect-port inspect-publish-uid loader localstorage-file max-http-header-size
    max-old-space-size-percentage network-family-autoselection-attempt-timeout openssl-config policy-integrity
    redirect-warnings report-dir report-directory report-filename report-signal require secure-heap
    secure-heap-min security-revert security-reverts snapshot-blob test-concurrency test-coverage-branches
    test-coverage-exclude test-coverage-functions test-coverage-include test-coverage-lines test-global-setup
    test-isolation test-name-pattern test-random-seed test-reporter test-reporter-destination
    test-rerun-failures test-shard test-skip-pattern test-timeout title tls-cipher-list tls-keylog
    trace-event-categories trace-event-file-pattern trace-require-module unhandled-rejections use-largepages
    v8-pool-size watch-kill-signal watch-path";

/// Each also with `no-` before it.
const NODE_FLAGS: &str = "
    abort-on-uncaught-exception addons allow-addons allow-child-process allow-ffi allow-inspector allow-net
    allow-openssl-store allow-wasi allow-worker async-context-frame build-snapshot check cpu-prof debug
    debug-arraybuffer-allocations debug-brk deprecation disable-sigusr1 disable-wasm-trap-handler
    disallow-code-generation-from-strings enable-etw-stack-walking enable-fips
    enable-network-family-autoselection enable-source-maps entry-url experimental-abortcontroller
    experimental-addon-modules experimental-async-context-frame experimental-detect-module
    experimental-eventsource experimental-fetch experimental-ffi experimental-global-customevent
    experimental-global-navigator experimental-global-webcrypto experimental-import-meta-resolve
    experimental-import-text experimental-inspector-network-resource experimental-json-modules
    experimental-modules experimental-network-imports experimental-network-inspection experimental-permission
    experimental-print-required-tla experimental-quic experimental-repl-await experimental-report
    experimental-require-module experimental-shadow-realm experimental-sqlite
    experimental-storage-inspection experimental-stream-iter experimental-strip-types
    experimental-test-coverage experimental-test-module-mocks experimental-test-snapshots
    experimental-top-level-await experimental-transform-types experimental-vm-modules
    experimental-wasi-unstable-preview1 experimental-wasm-modules experimental-web-worker
    experimental-websocket experimental-webstorage experimental-worker experimental-worker-inspection
    expose-gc expose-internals extra-info-on-fatal-exception force-async-hooks-checks force-context-aware
    force-fips force-node-api-uncaught-exceptions-policy frozen-intrinsics global-search-paths heap-prof
    http-parser insecure-http-parser inspect inspect-brk inspect-brk-node inspect-wait interactive
    interpreted-frames-native-stack jitless napi-modules network-family-autoselection node-memory-debug
    node-snapshot openssl-legacy-provider openssl-shared-config pending-deprecation perf-basic-prof
    perf-basic-prof-only-functions perf-prof perf-prof-unwinding-info permission permission-audit
    preserve-symlinks preserve-symlinks-main prof prof-process report-compact report-exclude-env
    report-exclude-network report-on-fatalerror report-on-signal report-uncaught-exception require-module
    strip-types test test-force-exit test-only test-udp-no-try-send test-update-snapshots throw-deprecation
    tls-max-v1.2 tls-max-v1.3 tls-min-v1.0 tls-min-v1.1 tls-min-v1.2 tls-min-v1.3 trace-atomics-wait
    trace-deprecation trace-env trace-env-js-stack trace-env-native-stack trace-events-enabled trace-exit
    trace-promises trace-sigint trace-sync-io trace-tls trace-uncaught trace-warnings track-heap-objects
    use-bundled-ca use-env-proxy use-openssl-ca use-system-ca verify-base-objects warnings watch
    watch-preserve-output zero-fill-buffers";

/// V8's that people set. Node passes it single words, so none takes the next one.
const V8_FLAGS: &str = "
    gc-interval harmony-shadow-realm heap-growing-percent huge-max-old-generation-size initial-heap-size
    initial-old-space-size max-heap-size max-lazy max-old-space-size max-semi-space-size min-semi-space-size
    optimize-for-size semi-space-growth-factor single-threaded stack-size stack-trace-limit trace-deopt trace-gc
    trace-gc-verbose trace-opt use-strict";

/// `config` is in neither list: with some of Bun's releases it takes the next word, with some it doesn't.
const BUN_VALUES: &str = "
    conditions console-depth cpu-prof-dir cpu-prof-interval cpu-prof-name cwd define disable-warning
    dns-result-order drop elide-lines env-file extension-order feature fetch-preconnect heap-prof-dir
    heap-prof-interval heap-prof-name import install jsx-factory jsx-fragment jsx-import-source jsx-runtime loader
    main-fields max-http-header-size port preload redirect-warnings require shell title tsconfig-override
    unhandled-rejections user-agent watch-kill-signal";

const BUN_FLAGS: &str = "
    bun cpu-prof cpu-prof-md experimental-http2-fetch experimental-http3-fetch expose-gc heap-prof heap-prof-md hot
    if-present ignore-dce-annotations insecure-http-parser inspect inspect-brk inspect-wait jsx-side-effects
    no-addons no-clear-screen no-deprecation no-env-file no-ffi-cc no-install no-macros no-orphans no-warnings
    pending-deprecation prefer-latest prefer-offline preserve-symlinks preserve-symlinks-main redis-preconnect
    silent smol sql-preconnect throw-deprecation tls-max-v1.2 tls-max-v1.3 tls-min-v1.0 tls-min-v1.1 tls-min-v1.2
    tls-min-v1.3 trace-deprecation trace-warnings use-bundled-ca use-openssl-ca use-system-ca watch
    zero-fill-buffers";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_in_two_of_nodes_lists() {
        let words = |list: &'static str| list.split_whitespace();
        for word in words(NODE_VALUES) {
            assert!(words(NODE_FLAGS).chain(words(V8_FLAGS)).all(|other| other != word), "{word}");
        }
    }

    #[test]
    fn options_are_told_apart_by_their_case_and_their_runtime() {
        assert_eq!(takes(Runtime::Node, "-C"), Takes::Value);
        assert_eq!(takes(Runtime::Node, "-c"), Takes::Nothing);
        assert_eq!(takes(Runtime::Bun, "-c"), Takes::Unknown);
        assert_eq!(takes(Runtime::Node, "--max_old_space_size"), Takes::Nothing);
        assert_eq!(takes(Runtime::Node, "--no-warnings"), Takes::Nothing);
        assert_eq!(takes(Runtime::Node, "--no-such-option"), Takes::Unknown);
        assert_eq!(takes(Runtime::Node, "--no-such-option=1"), Takes::Nothing);
        assert_eq!(takes(Runtime::Node, "--eval"), Takes::Code);
        assert_eq!(takes(Runtime::Node, "--eval=1"), Takes::Code);
    }
}
