//! Gatewatch's kernel program: reports what happens to watched TCP and UDP ports, and which processes hold them.
//!
//! Each hook filters by state first, then by port, so that an unwatched port costs a few dozen nanoseconds.
//! All programs observe; only the guard's change anything.
#![no_std]
#![no_main]
// For the one atomic addition that the kernel program needs; its compiler is not the stable one anyway.
#![feature(asm_experimental_arch)]

// What user space runs.
mod file;

// What is attached for a port that is guarded.
mod guard;

// The hooks, one file each. For each of their programs, user space has a row in its `hooks.rs`.
mod bind;
mod conflict;
mod conflict_by_call;
mod holders;
mod holders_by_file;
mod listen;
mod release;
mod udp_release;

// What they share.
mod budget;
mod current;
mod descriptors;
mod emit;
mod globals;
mod held;
mod hiding;
mod memory;
mod port_files;
mod sock;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Several helpers are available only under a licence that the kernel accepts as GPL-compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
