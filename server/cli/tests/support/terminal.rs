//! A program on a terminal of its own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::server::{PATIENCE, wait};

/// A terminal with a program on it.
pub(crate) struct Terminal {
    keyboard: File,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    child: Child,
}

#[derive(Default)]
struct Screen {
    text: String,
    /// Up to here a test has read.
    read: usize,
}

impl Terminal {
    /// Runs `command` in a session whose terminal is a new one, as a shell's window would.
    pub(crate) fn start(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("is ours");
        unlockpt(&master).expect("is ours");
        let name = ptsname(&master, Vec::new())
            .expect("has a name")
            .into_string()
            .expect("is ASCII");
        let side = || File::options().read(true).write(true).open(&name).expect("opens");
        // setsid makes the terminal the controlling one, so that Ctrl-C becomes a signal.
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg("--wait")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("setsid starts");
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().expect("a second handle");
        let screen = Arc::<(Mutex<Screen>, Condvar)>::default();
        let shared = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the last process is an error here.
            while let Ok(read) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                shared.0.lock().expect("not poisoned").text.push_str(&text);
                shared.1.notify_all();
            }
        });
        Self {
            keyboard,
            screen,
            child,
        }
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("it listens");
    }

    /// Waits until `text` appears after what was read before.
    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        let (screen, changed) = &*self.screen;
        let screen = screen.lock().expect("not poisoned");
        let absent = |screen: &mut Screen| !screen.text[screen.read..].contains(text);
        let (mut screen, waited) = changed
            .wait_timeout_while(screen, PATIENCE, absent)
            .expect("not poisoned");
        assert!(!waited.timed_out(), "`{text}` does not appear:\n{}", screen.text);
        let found = screen.text[screen.read..].find(text).expect("it is there");
        screen.read += found + text.len();
    }

    /// Waits for the end; the exit code.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        wait(&mut self.child).code()
    }
}
