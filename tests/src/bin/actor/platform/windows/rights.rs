//! What others may do to this process.

use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorA, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, SetKernelObjectSecurity};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// A right to a process.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Right {
    /// To end it (`PROCESS_TERMINATE`).
    Terminate,
    /// To read its memory, where its command line is (`PROCESS_VM_READ`).
    Read,
}

/// Takes the right from everybody.
pub(super) fn deny(right: Right) {
    // The security descriptor definition language: deny this one, then allow all, to everyone.
    let descriptor = match right {
        Right::Terminate => c"D:(D;;0x1;;;WD)(A;;0x1fffff;;;WD)",
        Right::Read => c"D:(D;;0x10;;;WD)(A;;0x1fffff;;;WD)",
    };
    let mut made = std::ptr::null_mut();
    // SAFETY: reads a NUL-terminated string, and writes a pointer to what it makes, which is never freed.
    let converted = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorA(
            descriptor.as_ptr().cast(),
            SDDL_REVISION_1,
            &raw mut made,
            std::ptr::null_mut(),
        )
    };
    assert!(converted != 0, "{}", std::io::Error::last_os_error());
    // SAFETY: gives a constant that means this process.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the descriptor has just been made.
    let set = unsafe { SetKernelObjectSecurity(own, DACL_SECURITY_INFORMATION, made) };
    assert!(set != 0, "{}", std::io::Error::last_os_error());
}
