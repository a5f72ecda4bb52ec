#!/bin/bash
# What all guests do, whether they have a system or not. To be sourced in the folder of the programs.
failed=0

check() { # check NAME COMMAND...: the command succeeds
    local name=$1; shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failed=1; fi
}

refused() { # refused STATUS COMMAND...: the command ends with this status
    local wanted=$1; shift
    "$@" > /tmp/refused 2>&1; local status=$?
    [ $status = "$wanted" ] || { echo "status $status instead of $wanted:"; cat /tmp/refused; false; }
}

echo "--- $(uname -r) $(uname -m)"
# Older kernels refuse the kernel program, and say why; all else works by polling.
if printf '5.15\n%s\n' "$(uname -r)" | sort -VC; then backend=ebpf wanted="ebpf  ok"; else backend=poll wanted="kernel events take Linux 5.15"; fi

knows_kernel() { # knows_kernel GATEWATCH: it knows what this kernel can do, and how much the verifier has to do here
    check "doctor knows this kernel: $wanted" grep -q "$wanted" <("$1" doctor --color never)
    [ $backend = ebpf ] || polls "$wanted"
    # In the surroundings in which the programs do most; `cargo xtask vm-test` compares the counts.
    for way in env "unshare --pid --fork --mount-proc" "env GATEWATCH_WITHOUT=btf" "env GATEWATCH_WITHOUT=loops" \
        "env GATEWATCH_WITHOUT=fexit unshare --pid --fork --mount-proc"; do
        NO_COLOR=1 $way "$1" -v -v doctor 2>&1
    done | sed -n "s/.*loaded program=\"\(.*\)\" verified=/verified $(uname -r | cut -d. -f1-2) \\1 /p" | sort | uniq
}

left_out() { # left_out: the scenarios that a guest can't show, each with the reason
    local slow="the emulated processor is too slow for it"
    echo "an_ancestor_behind_a_hidden_hop_is_never_ended: before 6.13 the kernel does not tell a hidden ancestor's parent, so the \
answer is unknown, not held_by_protected"
    echo "a_signal_during_the_load_is_no_failure: $slow"
    echo "under_a_foreign_proc_a_watch_does_not_call_an_owner_by_anothers_name: $slow"
    echo "an_upgrade_under_load_fails_no_caller: $slow"
    echo "sigterm_ends_waits_and_watches_at_once: $slow, since who asks once the agent stops has 700 ms"
    printf '5.17\n%s\n' "$(uname -r)" | sort -VC && return
    for scenario in a_command_uses_the_program_that_the_one_before_has_kept commands_at_once_answer_each_of_its_own_port \
        what_a_command_that_was_killed_leaves_misleads_nobody what_is_kept_and_of_no_use_is_replaced; do
        echo "$scenario: before 5.17, which has no loops for the kernel program, nothing is kept"
    done
}

tell_of_scenarios() { # all that the scenarios say but who held; of those it tells how many there are so far, and which were slow
    local line held=0 last=$SECONDS
    while IFS= read -r line; do
        case $line in
            *'... ok')
                held=$((held + 1)); ((held % 20)) || echo "$held held"
                ((SECONDS - last < 60)) || echo "nothing for $((SECONDS - last)) s, then $line"
                last=$SECONDS
                ;;
            *'... ignored' | *'... ignored, '* | *WARN* | skipped* | '' | 'running '*) ;;
            *) printf '%s\n' "$line" ;;
        esac
    done
}

run_scenarios() { # run_scenarios FILTER...: the scenarios whose name contains one of these
    mkdir -p release/deps && ln -f gatewatch actor release/ && ln -f scenarios release/deps/
    local left_out
    mapfile -t left_out < <(left_out)
    printf 'left out here: %s\n' "${left_out[@]}"
    for filter in "$@"; do
        echo "--- scenarios $filter"
        GATEWATCH_BIN=$PWD/gatewatch GATEWATCH_TESTS_PATIENCE=6 RUST_BACKTRACE=0 \
            release/deps/scenarios $filter --test-threads 2 $(printf -- '--skip %s ' "${left_out[@]%%:*}") 2>&1 \
            | tell_of_scenarios
        [ "${PIPESTATUS[0]}" = 0 ] || failed=1
    done
}

polls() { # polls SENTENCE: without kernel events all works on, and whoever asks is told why by this sentence
    local sentence=$1 port=18799 gatewatch=./gatewatch actor=./actor
    check "doctor says why there are no kernel events" grep -qF "$sentence" <($gatewatch doctor --color never)
    $gatewatch owners -p $port --agent never --backend ebpf > /tmp/out 2>&1
    check "so does a command that wants them, with status 6" test "$? $(grep -cF "$sentence" /tmp/out)" = "6 1"
    cat /tmp/out
    setsid $actor --stay --on 127.0.0.1:$port > /dev/null 2>&1 < /dev/null &
    check "another polls: until somebody listens" $gatewatch wait listening -p $port --timeout 60s --agent never -q
    $gatewatch clean -p $port --identity any --agent never --format json -v > /tmp/out 2> /tmp/err
    check "and to end it" grep -q '"outcome":"cleaned","backend":"poll"' /tmp/out
    check "which it says, with the reason" grep -qF "$sentence" /tmp/err
    cat /tmp/out /tmp/err
}

lock_down() { # what a locked down kernel allows. The last of all, because only a boot takes this back
    local mode=/sys/kernel/security/lockdown
    [ $backend = ebpf ] || return
    check "the kernel can be locked down" eval "echo confidentiality > $mode"
    polls "the kernel is locked down (confidentiality), and lets no program read its memory"
}
