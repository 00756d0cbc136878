//! Runs seeds one by one: `cargo run -p switchboard-simulation -- FIRST [COUNT]`; with `trace SEED` it prints all
//! that happens in one.

use std::process::ExitCode;

const USAGE: &str = "usage: switchboard-simulation FIRST [COUNT], or switchboard-simulation trace SEED";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (first, count, is_traced) = match arguments.as_slice() {
        ["trace", seed] => (seed.parse::<u64>(), Ok(1), true),
        [first] => (first.parse(), Ok(1), false),
        [first, count] => (first.parse(), count.parse::<u64>(), false),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (Ok(first), Ok(count)) = (first, count) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut failed = 0_u64;
    for seed in first..first.saturating_add(count) {
        let result = if is_traced {
            switchboard_simulation::trace(seed)
        } else {
            switchboard_simulation::run(seed)
        };
        match result {
            Ok(report) if count == 1 => println!("seed {seed}: {report:?}"),
            Ok(_) => {}
            Err(found) => {
                failed += 1;
                println!("{found}");
            }
        }
    }
    println!("{count} seeds, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
