//! The publishes of one link that wait for their answer: two series, with a key and without, each
//! numbered (P1). They are kept until they are answered, and sent again when the link opens anew.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use switchboard_proto::bus::{Position, Publish, Series};

/// A publish without an answer.
pub(super) struct Unanswered<P> {
    pub(super) publisher: P,
    pub(super) id: u32,
    pub(super) number: u64,
    pub(super) deadline: Duration,
    pub(super) message: Bytes,
    /// The position that the gateway held when it was first sent; `None`: it was not.
    pub(super) sent: Option<Position>,
}

#[derive(Default)]
struct OneSeries<P> {
    /// In the order of their numbers.
    unanswered: VecDeque<Unanswered<P>>,
    last: u64,
}

/// See the module.
pub(super) struct Publishes<P> {
    plain: OneSeries<P>,
    keyed: OneSeries<P>,
    bytes: usize,
}

impl<P> Publishes<P> {
    pub(super) fn new() -> Self {
        Self {
            plain: OneSeries {
                unanswered: VecDeque::new(),
                last: 0,
            },
            keyed: OneSeries {
                unanswered: VecDeque::new(),
                last: 0,
            },
            bytes: 0,
        }
    }

    fn series(&mut self, series: Series) -> &mut OneSeries<P> {
        match series {
            Series::Plain => &mut self.plain,
            Series::Keyed => &mut self.keyed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.plain.unanswered.len() + self.keyed.unanswered.len()
    }

    /// Bytes of their messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Enters a publish. `position`: the link is up and it is sent now; what to send.
    pub(super) fn push(
        &mut self,
        series: Series,
        publisher: P,
        id: u32,
        message: Bytes,
        deadline: Duration,
        position: Option<Position>,
    ) -> Option<Publish> {
        self.bytes += message.len();
        let of = self.series(series);
        of.last += 1;
        let number = of.last;
        let is_sent = position.is_some();
        of.unanswered.push_back(Unanswered {
            publisher,
            id,
            number,
            deadline,
            message: message.clone(),
            sent: position,
        });
        is_sent.then(|| Publish {
            series: series.into(),
            number,
            message,
            again: false,
        })
    }

    /// All that wait, in order, to be sent in a new opening; `position` is the gateway's now.
    pub(super) fn send_again(&mut self, position: &Position) -> Vec<Publish> {
        let mut publishes = Vec::with_capacity(self.len());
        for (series, of) in [(Series::Plain, &mut self.plain), (Series::Keyed, &mut self.keyed)] {
            for waiting in &mut of.unanswered {
                let again = waiting.sent.is_some();
                waiting.sent.get_or_insert(*position);
                publishes.push(Publish {
                    series: series.into(),
                    number: waiting.number,
                    message: waiting.message.clone(),
                    again,
                });
            }
        }
        publishes
    }

    /// The lowest position at which one that waits was first sent (P3). One of another log is no position.
    pub(super) fn sent_since(&self) -> Option<Position> {
        let sent = || {
            [&self.plain, &self.keyed]
                .into_iter()
                .flat_map(|of| &of.unanswered)
                .filter_map(|waiting| waiting.sent)
        };
        let newest = sent().max_by_key(|position| (position.ordinal, position.owner_epoch))?;
        sent()
            .filter(|position| (position.ordinal, position.random) == (newest.ordinal, newest.random))
            .min_by_key(|position| position.offset)
    }

    /// The lowest number of each series that waits; the next one where none does.
    pub(super) fn open(&self) -> (u64, u64) {
        let of = |of: &OneSeries<P>| {
            of.unanswered
                .front()
                .map_or(of.last + 1, |waiting| waiting.number)
        };
        (of(&self.plain), of(&self.keyed))
    }

    /// The one that an answer is for.
    pub(super) fn take(&mut self, series: Series, number: u64) -> Option<Unanswered<P>> {
        let of = self.series(series);
        // Numbers are sorted, so the search stays short however many wait.
        let index = of
            .unanswered
            .binary_search_by_key(&number, |waiting| waiting.number)
            .ok()?;
        let taken = of.unanswered.remove(index)?;
        self.bytes -= taken.message.len();
        Some(taken)
    }

    /// Those whose time is over.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Unanswered<P>> {
        let mut due = Vec::new();
        for of in [&mut self.plain, &mut self.keyed] {
            // In the order of numbers, which is almost but not quite that of deadlines.
            if of.unanswered.iter().any(|waiting| waiting.deadline <= now) {
                let (gone, stay) = std::mem::take(&mut of.unanswered)
                    .into_iter()
                    .partition(|waiting| waiting.deadline <= now);
                of.unanswered = stay;
                due.extend::<VecDeque<_>>(gone);
            }
        }
        self.bytes -= due.iter().map(|waiting| waiting.message.len()).sum::<usize>();
        due
    }
}
