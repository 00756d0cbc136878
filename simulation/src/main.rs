//! Runs seeds one by one: `cargo run -p switchboard-simulation -- FIRST [COUNT]`; with `trace SEED` it prints all
//! that happens in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    let is_traced = std::env::args().nth(1).is_some_and(|text| text == "trace");
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<u64>().ok());
    let first = numbers.next().unwrap_or(0);
    let count = numbers.next().unwrap_or(1);
    let mut failed = 0;
    if is_traced {
        println!("{:?}", switchboard_simulation::trace(first));
        return ExitCode::SUCCESS;
    }
    for seed in first..first + count {
        match switchboard_simulation::run(seed) {
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
