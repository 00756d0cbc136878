//! Who beat when: the pure part of membership, without clock or bus.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_proto::bus::{MemberBeat, Role};
use switchboard_proto::ids::Incarnation;

/// Bounds of what a beat may claim as its interval, so that nobody stays for ever or flickers.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(10);

/// The longest version text that is kept; a beat with a longer one is ignored.
const MAX_VERSION: usize = 64;

/// A service of some process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it does.
    pub role: Role,
    /// Its life.
    pub incarnation: Incarnation,
    /// The release it runs.
    pub version: String,
}

/// Members and until when they count as there. Times are since any fixed moment.
#[derive(Debug)]
pub struct MembershipTable {
    me: Member,
    missed: u32,
    max_members: usize,
    others: BTreeMap<(i32, Incarnation), Entry>,
    ignored: u64,
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    member: Member,
    until: Duration,
}

impl MembershipTable {
    /// `me` alone. Others are gone after `missed` of their intervals without a beat. Beyond
    /// `max_members` those who are there stay and new ones are ignored.
    pub fn new(me: Member, missed: u32, max_members: usize) -> Self {
        Self {
            me,
            missed: missed.max(1),
            max_members,
            others: BTreeMap::new(),
            ignored: 0,
            changed: false,
        }
    }

    /// Takes in what somebody said at `now`. A beat that makes no sense is ignored.
    pub fn on_beat(&mut self, beat: &MemberBeat, now: Duration) {
        let (Ok(role), Ok(incarnation)) = (
            Role::try_from(beat.role),
            Incarnation::try_from(beat.incarnation.as_ref()),
        ) else {
            return;
        };
        let is_me = role == self.me.role && incarnation == self.me.incarnation;
        if is_me || role == Role::Unspecified || beat.version.len() > MAX_VERSION {
            return;
        }
        let key = (beat.role, incarnation);
        if beat.leaving {
            self.changed |= self.others.remove(&key).is_some();
            return;
        }
        let interval = Duration::from_millis(beat.interval_ms.into()).clamp(SHORTEST, LONGEST);
        let until = now + interval * self.missed;
        if let Some(entry) = self.others.get_mut(&key) {
            entry.until = until;
        } else if self.others.len() + 1 >= self.max_members {
            self.ignored += 1;
        } else {
            let member = Member {
                role,
                incarnation,
                version: beat.version.clone(),
            };
            self.others.insert(key, Entry { member, until });
            self.changed = true;
        }
    }

    /// Forgets who has missed too many beats by `now`.
    pub fn expire(&mut self, now: Duration) {
        let before = self.others.len();
        self.others.retain(|_, entry| entry.until > now);
        self.changed |= self.others.len() != before;
    }

    /// How many there are besides this one.
    pub fn others(&self) -> usize {
        self.others.len()
    }

    /// All members, sorted by role and incarnation.
    pub fn members(&self) -> Vec<Member> {
        let others = self.others.values().map(|entry| entry.member.clone());
        let mut members: Vec<Member> = others.chain([self.me.clone()]).collect();
        members.sort_by_key(|member| (i32::from(member.role), member.incarnation));
        members
    }

    /// Beats that were ignored because the table was full.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Whether the members changed since this was last called.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u128) -> Member {
        Member {
            role: Role::Router,
            incarnation: Incarnation::from_u128(number),
            version: "0".to_owned(),
        }
    }

    fn beat(number: u128) -> MemberBeat {
        MemberBeat {
            role: Role::Router.into(),
            incarnation: Incarnation::from_u128(number).to_bytes(),
            version: "0".to_owned(),
            interval_ms: 100,
            leaving: false,
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn others_come_stay_and_go() {
        let mut table = MembershipTable::new(member(5), 4, 10);
        assert_eq!(table.members(), [member(5)]);
        table.on_beat(&beat(1), at(0));
        assert!(table.take_changed());
        assert_eq!(table.members(), [member(1), member(5)]);
        table.on_beat(&beat(1), at(300));
        table.expire(at(699));
        assert!(!table.take_changed());
        table.expire(at(700));
        assert!(table.take_changed());
        assert_eq!(table.members(), [member(5)]);
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_may_come_back() {
        let mut table = MembershipTable::new(member(5), 4, 10);
        table.on_beat(&beat(1), at(0));
        let leaving = MemberBeat {
            leaving: true,
            ..beat(1)
        };
        table.on_beat(&leaving, at(1));
        assert_eq!(table.members(), [member(5)]);
        table.on_beat(&beat(1), at(2));
        assert_eq!(table.members().len(), 2);
    }

    #[test]
    fn own_beats_change_nothing() {
        let mut table = MembershipTable::new(member(5), 4, 10);
        table.on_beat(&beat(5), at(0));
        let leaving = MemberBeat {
            leaving: true,
            ..beat(5)
        };
        table.on_beat(&leaving, at(0));
        assert!(!table.take_changed());
        assert_eq!(table.members(), [member(5)]);
    }

    #[test]
    fn full_table_keeps_who_is_there() {
        let mut table = MembershipTable::new(member(5), 4, 3);
        for number in 1..=4 {
            table.on_beat(&beat(number), at(0));
        }
        assert_eq!(table.members(), [member(1), member(2), member(5)]);
        assert_eq!(table.ignored(), 2);
    }

    #[test]
    fn senseless_beats_are_ignored() {
        let mut table = MembershipTable::new(member(5), 4, 10);
        let wrong = [
            MemberBeat { role: 99, ..beat(1) },
            MemberBeat { role: 0, ..beat(1) },
            MemberBeat {
                incarnation: vec![1].into(),
                ..beat(1)
            },
            MemberBeat {
                version: "x".repeat(65),
                ..beat(1)
            },
        ];
        for beat in &wrong {
            table.on_beat(beat, at(0));
        }
        assert_eq!(table.members(), [member(5)]);
    }

    #[test]
    fn nobody_stays_for_ever() {
        let mut table = MembershipTable::new(member(5), 4, 10);
        let claim = MemberBeat {
            interval_ms: u32::MAX,
            ..beat(1)
        };
        table.on_beat(&claim, at(0));
        table.expire(LONGEST * 4);
        assert_eq!(table.members(), [member(5)]);
    }
}
