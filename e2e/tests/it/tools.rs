//! Runs the test scripts of other languages, with the versions that `install-tools` installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use switchboard_e2e::child::Guarded;

/// For a whole script.
const DEADLINE: Duration = Duration::from_secs(300);

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Where pictures of pages go: beside the test executables, so below `target/`.
pub(crate) fn screenshots() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let target = executable
        .ancestors()
        .nth(3)
        .context("the test executable is not below target/")?;
    Ok(target.join("screenshots"))
}

/// `node SCRIPT` in `e2e/js`, which must end well.
pub(crate) async fn node(script: &str, environment: &[(&str, &str)]) -> Result<()> {
    let folder = folder("js");
    installed(&folder.join("node_modules/.installed"))?;
    run(Command::new("node").arg(script).current_dir(folder), environment).await
}

/// `python -m unittest MODULE` in `e2e/python`, which must end well.
pub(crate) async fn python(module: &str, environment: &[(&str, &str)]) -> Result<()> {
    let python = folder("../.tools/python-sdk/bin/python");
    installed(&python)?;
    run(
        Command::new(python)
            .args(["-B", "-m", "unittest", "-v", module])
            .current_dir(folder("python")),
        environment,
    )
    .await
}

fn installed(file: &Path) -> Result<()> {
    ensure!(
        file.exists(),
        "{} is missing: run ./test, or e2e/install-tools, once",
        file.display()
    );
    Ok(())
}

async fn run(command: &mut Command, environment: &[(&str, &str)]) -> Result<()> {
    command.envs(environment.iter().copied());
    let ended = Guarded::spawn(command)?.ended(DEADLINE).await;
    let status = ended.with_context(|| format!("{command:?}: what it printed is above"))?;
    ensure!(
        status.success(),
        "{command:?}: {status}; what it printed is above"
    );
    Ok(())
}
