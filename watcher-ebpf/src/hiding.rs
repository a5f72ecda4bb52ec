//! What is hidden from the compiler, so that it leaves for the verifier what the verifier has to see. Both do nothing when they run.

use core::arch::asm;

/// The same number. The compiler can't know that, and leaves what is done with it as it is: it would turn a sum into a choice,
/// drop the bound that the verifier needs to see, or make a call of several zeros.
#[inline(always)]
pub fn hidden(mut number: u64) -> u64 {
    // SAFETY: the line does nothing.
    unsafe { asm!("/* {0} */", inout(reg) number) };
    number
}

/// Takes three numbers. The verifier goes once through a function that is given three, and wants to see that each is; the
/// compiler would leave out those that nobody reads.
#[inline(always)]
pub fn taken(a: u64, b: u64, c: u64) {
    // SAFETY: the line does nothing.
    unsafe { asm!("/* {0} {1} {2} */", in(reg) a, in(reg) b, in(reg) c) };
}
