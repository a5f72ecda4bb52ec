//! What is typed, read by a thread of its own: where the terminal has gone, crossterm's reader never comes back, and the
//! program must end all the same.

use std::io;
use std::thread;

use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What comes from the terminal.
pub(super) enum Input {
    Key(KeyEvent),
    Resized,
}

/// All that is typed, in order.
pub(super) struct Typed(UnboundedReceiver<io::Result<Input>>);

impl Typed {
    /// Begins to read. The thread ends with the program.
    pub(super) fn read() -> Self {
        let (tell, told) = unbounded_channel();
        thread::spawn(move || read_all(&tell));
        Self(told)
    }

    /// The next key, or that the terminal has got another size.
    ///
    /// # Errors
    /// When nothing can be read any more.
    pub(super) async fn next(&mut self) -> io::Result<Input> {
        self.0.recv().await.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Forgets what has been typed: what came before a question could be read is no answer to it.
    pub(super) fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}

fn read_all(tell: &UnboundedSender<io::Result<Input>>) {
    loop {
        let input = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Ok(Input::Key(key)),
            Ok(Event::Resize(..)) => Ok(Input::Resized),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        let is_last = input.is_err();
        if tell.send(input).is_err() || is_last {
            return;
        }
    }
}
