//! `switchboard`: starts the system, and the operator's commands. See [`switchboard::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    switchboard::cli::main()
}
