//! Which publishes of which gateway are stored: what tells a repeat after a reset or a take-over from
//! something new (P2, P3). No I/O and no clock.
//!
//! Invariants, each with a test below:
//! * A number that is stored is answered with its offset for as long as its gateway may ask.
//! * A number below one that was taken and not stored itself was refused, and stays so: taking it
//!   now would let it overtake backwards (P1).
//! * Where the beginning of a table is not known, nothing is claimed about what may stand there.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::maps::HashMap;
use switchboard_proto::bus::Series;
use switchboard_proto::ids::{Incarnation, Offset};

/// What is known of a publish that a gateway sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was never here: take it.
    New,
    /// It is stored.
    Stored(Offset),
    /// It is being appended.
    InFlight,
    /// It was refused for certain.
    Refused,
    /// It may be stored where this table does not reach (P3).
    Unknown,
}

#[derive(Default)]
struct Numbers {
    stored: BTreeMap<u64, Offset>,
    /// The highest number that was ever taken: stored, or in the append in flight.
    highest: u64,
    /// Those that are being appended.
    in_flight: Vec<u64>,
}

#[derive(Default)]
struct Source {
    plain: Numbers,
    keyed: Numbers,
    heard: Duration,
    /// What it stored at or before this may be missing here.
    from: Offset,
    /// What it may have sent before its present opening is not stored at or before this (P3).
    since: Offset,
}

impl Source {
    fn numbers(&mut self, series: Series) -> &mut Numbers {
        match series {
            Series::Plain => &mut self.plain,
            Series::Keyed => &mut self.keyed,
        }
    }
}

/// See the module.
pub(crate) struct Publishers {
    sources: HashMap<Incarnation, Source>,
    /// Stored numbers of one series that are kept, at most.
    limit: usize,
    /// A gateway silent this long asks no more.
    silence: Duration,
    /// What anybody stored at or before this may be missing here.
    from: Offset,
}

impl Publishers {
    /// A table that knows everything stored behind `from`.
    pub(crate) fn new(limit: usize, silence: Duration, from: Offset) -> Self {
        Self {
            sources: HashMap::default(),
            limit,
            silence,
            from,
        }
    }

    fn source(&mut self, gateway: Incarnation, now: Duration) -> &mut Source {
        let from = self.from;
        let source = self.sources.entry(gateway).or_insert_with(|| Source {
            from,
            ..Source::default()
        });
        source.heard = now;
        source
    }

    /// The gateway opens its link: what it will send again is not stored at or before `since`.
    pub(crate) fn opened(&mut self, gateway: Incarnation, since: Option<Offset>, now: Duration) {
        self.source(gateway, now).since = since.unwrap_or_default();
    }

    /// What is known of number `number`. `again`: it was sent before the present opening.
    pub(crate) fn look(
        &mut self,
        gateway: Incarnation,
        series: Series,
        number: u64,
        again: bool,
        now: Duration,
    ) -> Known {
        let source = self.source(gateway, now);
        let is_certain = !again || source.since >= source.from;
        let numbers = source.numbers(series);
        if let Some(offset) = numbers.stored.get(&number) {
            return Known::Stored(*offset);
        }
        if numbers.in_flight.contains(&number) {
            return Known::InFlight;
        }
        if !is_certain {
            Known::Unknown
        } else if number <= numbers.highest {
            Known::Refused
        } else {
            Known::New
        }
    }

    /// The number goes into the append in flight.
    pub(crate) fn appending(&mut self, gateway: Incarnation, series: Series, number: u64) {
        let Some(source) = self.sources.get_mut(&gateway) else {
            return;
        };
        let numbers = source.numbers(series);
        numbers.highest = numbers.highest.max(number);
        numbers.in_flight.push(number);
    }

    /// The number is stored; also while a tail is read.
    pub(crate) fn stored(
        &mut self,
        gateway: Incarnation,
        series: Series,
        number: u64,
        offset: Offset,
        now: Duration,
    ) {
        let limit = self.limit;
        let source = self.source(gateway, now);
        let numbers = source.numbers(series);
        numbers.in_flight.retain(|other| *other != number);
        numbers.highest = numbers.highest.max(number);
        numbers.stored.insert(number, offset);
        if numbers.stored.len() > limit
            && let Some((_, forgotten)) = numbers.stored.pop_first()
        {
            source.from = source.from.max(forgotten);
        }
    }

    /// The append in flight was refused.
    pub(crate) fn refused(&mut self, gateway: Incarnation, series: Series, number: u64) {
        if let Some(source) = self.sources.get_mut(&gateway) {
            source.numbers(series).in_flight.retain(|other| *other != number);
        }
    }

    /// The gateway waits for no number below these any more.
    pub(crate) fn answered(&mut self, gateway: Incarnation, plain: u64, keyed: u64, now: Duration) {
        let source = self.source(gateway, now);
        for (numbers, open) in [(&mut source.plain, plain), (&mut source.keyed, keyed)] {
            while numbers
                .stored
                .first_key_value()
                .is_some_and(|(number, _)| *number < open)
            {
                numbers.stored.pop_first();
            }
        }
    }

    /// Forgets gateways that have been silent.
    pub(crate) fn tick(&mut self, now: Duration) {
        let silence = self.silence;
        let from = &mut self.from;
        self.sources.retain(|_, source| {
            let stays = now.saturating_sub(source.heard) < silence;
            if !stays {
                // Should it come back after all, what it stored must not look new.
                for numbers in [&source.plain, &source.keyed] {
                    let newest = numbers.stored.values().max();
                    *from = newest.map_or(*from, |newest| (*newest).max(*from));
                }
            }
            stays
        });
    }

    /// Gateways in the table, for metrics.
    pub(crate) fn len(&self) -> usize {
        self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::ids::Sequence;

    use super::*;

    const A: Incarnation = Incarnation::from_u128(1);
    const NOW: Duration = Duration::ZERO;

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    fn table() -> Publishers {
        Publishers::new(3, Duration::from_secs(60), at(100))
    }

    fn look(table: &mut Publishers, number: u64) -> Known {
        table.look(A, Series::Plain, number, false, NOW)
    }

    fn look_again(table: &mut Publishers, number: u64, since: u64) -> Known {
        table.opened(A, Some(at(since)), NOW);
        table.look(A, Series::Plain, number, true, NOW)
    }

    #[test]
    fn p2_what_is_stored_is_told_and_what_was_skipped_is_refused() {
        let mut table = table();
        assert_eq!(look(&mut table, 1), Known::New);
        table.stored(A, Series::Plain, 1, at(101), NOW);
        table.stored(A, Series::Plain, 3, at(102), NOW);
        assert_eq!(look_again(&mut table, 1, 100), Known::Stored(at(101)));
        assert_eq!(look_again(&mut table, 2, 100), Known::Refused);
        assert_eq!(look_again(&mut table, 3, 100), Known::Stored(at(102)));
        assert_eq!(look_again(&mut table, 4, 100), Known::New);
        let keyed = table.look(A, Series::Keyed, 1, false, NOW);
        assert_eq!(keyed, Known::New, "the series are two");
    }

    #[test]
    fn p2_what_is_being_appended_is_waited_for() {
        let mut table = table();
        assert_eq!(look(&mut table, 5), Known::New);
        table.appending(A, Series::Plain, 5);
        assert_eq!(look_again(&mut table, 5, 100), Known::InFlight);
        assert_eq!(
            look_again(&mut table, 4, 100),
            Known::Refused,
            "it would overtake backwards"
        );
        table.refused(A, Series::Plain, 5);
        assert_eq!(look_again(&mut table, 5, 100), Known::Refused);
    }

    #[test]
    fn p3_before_the_beginning_nothing_is_certain() {
        let mut table = table();
        assert_eq!(look_again(&mut table, 7, 99), Known::Unknown);
        assert_eq!(look_again(&mut table, 7, 100), Known::New);
        assert_eq!(look(&mut table, 7), Known::New, "never sent before");
        // The limit of three moves the beginning.
        for number in 1..=4 {
            table.stored(A, Series::Plain, number, at(100 + number), NOW);
        }
        assert_eq!(look_again(&mut table, 1, 100), Known::Unknown);
        assert_eq!(look_again(&mut table, 1, 101), Known::Refused);
        assert_eq!(look_again(&mut table, 2, 100), Known::Stored(at(102)));
    }

    #[test]
    fn what_is_answered_is_forgotten_and_costs_nothing() {
        let mut table = table();
        for number in 1..=3 {
            table.stored(A, Series::Plain, number, at(100 + number), NOW);
        }
        table.answered(A, 3, 1, NOW);
        assert_eq!(look_again(&mut table, 3, 100), Known::Stored(at(103)));
        // Pruning moved no beginning: what is new is still known to be new.
        assert_eq!(look_again(&mut table, 4, 100), Known::New);
    }

    #[test]
    fn who_was_silent_and_comes_back_is_not_believed_to_be_new() {
        let mut table = table();
        table.stored(A, Series::Plain, 1, at(150), NOW);
        table.tick(Duration::from_secs(59));
        assert_eq!(table.len(), 1);
        table.tick(Duration::from_secs(61));
        assert_eq!(table.len(), 0);
        assert_eq!(look_again(&mut table, 1, 120), Known::Unknown);
    }
}
