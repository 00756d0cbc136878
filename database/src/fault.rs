//! What an error of a database means.

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It cannot be reached, or did not answer in time. Worth another try.
    Unavailable,
    /// It refuses what it was given: a fault of this program or of the database's set-up.
    Refused,
    /// It cannot hold a value that it was given.
    Data,
}

/// The class of an error.
pub fn class(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(refusal) if is_data(refusal.code().as_deref()) => Class::Data,
        sqlx::Error::Database(refusal) if !is_passing(refusal.code().as_deref()) => Class::Refused,
        _ => Class::Unavailable,
    }
}

/// A number as both databases hold it. What is counted in microseconds or messages is below 2^63 for longer than anything runs.
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Whether it is the values that the database does not take. PostgreSQL: data exceptions (22) and broken constraints (23); SQLite's
/// codes of values that are too big, of a broken constraint and of a wrong type.
fn is_data(code: Option<&str>) -> bool {
    match code {
        Some(code) if code.len() == 5 => matches!(code.get(..2), Some("22" | "23")),
        Some(code) => matches!(code.parse::<u32>().map(|code| code & 0xff), Ok(18..=20)),
        None => false,
    }
}

/// Whether the database would perhaps do it later. PostgreSQL: connection failures (08), rollbacks after a conflict (40),
/// no resources (53), an operator's doing (57), a full or failing disk (58). SQLite's codes of a locked, busy or full database and of
/// failed I/O.
fn is_passing(code: Option<&str>) -> bool {
    let Some(code) = code else { return true };
    if code.len() == 5 {
        return matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"));
    }
    // The low byte of an extended code is the code.
    matches!(
        code.parse::<u32>().map(|code| code & 0xff),
        Ok(5 | 6 | 10 | 13 | 14)
    )
}
