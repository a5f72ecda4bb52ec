#!/bin/sh
# rustc for the short form of the fuzzers: libFuzzer's counters go into the program and the targets alone, and whatever else
# they need is built as plainly as for any test. The flags come from `cargo xtask fuzz`.
case " $* " in
*" --crate-name gatewatch "* | *" --crate-name parse "*) exec "$@" $GATEWATCH_FUZZ_FLAGS ;;
*) exec "$@" ;;
esac
