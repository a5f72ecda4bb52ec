//! Ctrl-C, handled and pressed.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, SetConsoleCtrlHandler,
};
use windows_sys::core::BOOL;

static PRESSED: OnceLock<Mutex<Sender<()>>> = OnceLock::new();

/// Ctrl-C, taken when the actor has time for it.
pub(crate) struct Ending(Receiver<()>);

impl Ending {
    /// From here on.
    pub(crate) fn begin() -> Self {
        let (tell, pressed) = channel();
        assert!(PRESSED.set(Mutex::new(tell)).is_ok());
        // SAFETY: takes no function. A parent may have said that Ctrl-C is ignored, which is inherited; this undoes it.
        let heeded = unsafe { SetConsoleCtrlHandler(None, 0) } != 0;
        // SAFETY: the handler is a function that stays.
        let heeded = heeded && unsafe { SetConsoleCtrlHandler(Some(heed), 1) } != 0;
        assert!(heeded, "{}", std::io::Error::last_os_error());
        Self(pressed)
    }

    /// Waits until the actor is asked to end.
    pub(crate) fn wait(&self) {
        self.0.recv().unwrap();
    }
}

extern "system" fn heed(key: u32) -> BOOL {
    let heard = key == CTRL_C_EVENT
        && PRESSED.get().is_some_and(|tell| tell.lock().is_ok_and(|tell| tell.send(()).is_ok()));
    heard.into()
}

/// Presses the keys in another process's console, as a person there would.
pub(super) fn press_ctrl_c(pid: u32) -> ! {
    // SAFETY: gives up this process's own console.
    unsafe { FreeConsole() };
    // SAFETY: takes a number.
    let pressed = unsafe { AttachConsole(pid) } != 0;
    // SAFETY: takes no function: this process must ignore the keys.
    let pressed = pressed && unsafe { SetConsoleCtrlHandler(None, 1) } != 0;
    // SAFETY: takes two numbers.
    let pressed = pressed && unsafe { GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) } != 0;
    assert!(pressed, "{}", std::io::Error::last_os_error());
    std::process::exit(0)
}
