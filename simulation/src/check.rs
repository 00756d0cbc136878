//! What must hold when all is over.

use std::collections::BTreeMap;

use switchboard_proto::channel::ChannelName;

use crate::clients::Piece;
use crate::log::Stored;
use crate::world::World;

/// What a run saw: a run that saw nothing proves nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub published: u64,
    pub acknowledged: u64,
    pub recovered: u64,
    pub recovered_messages: u64,
    pub lost: u64,
    pub errors: u64,
    pub takeovers: u64,
    pub scans: u64,
    pub purges: u64,
}

/// Compares what clients noted with what the logs hold.
///
/// # Errors
/// All that does not hold, in words.
pub fn check(world: &World) -> Result<Report, String> {
    let mut faults = world.notes.faults.clone();
    let stored: Vec<Vec<Stored>> = world.logs.iter().map(|log| log.messages()).collect();
    stored_once(world, &stored, &mut faults);
    in_inboxes(&stored, &mut faults);
    given_to_subscribers(world, &stored, &mut faults);
    if !faults.is_empty() {
        let count = faults.len();
        faults.truncate(6);
        return Err(format!("{count} faults: {}", faults.join("\n  ")));
    }
    Ok(Report {
        published: world.notes.published.len() as u64,
        acknowledged: world.notes.acknowledged.len() as u64,
        recovered: world.notes.recovered,
        recovered_messages: world.notes.recovered_messages,
        lost: world.notes.lost,
        errors: world.notes.errors,
        takeovers: world.takeovers,
        scans: world.scans,
        purges: world.purges,
    })
}

/// Every acknowledged message is stored once, where it was said to be; no other twice; every one with
/// a key was stored in the end.
fn stored_once(world: &World, stored: &[Vec<Stored>], faults: &mut Vec<String>) {
    let mut by_id: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for message in stored.iter().flatten().filter(|message| message.origin.is_none()) {
        by_id.entry(message.id).or_default().push(message.offset);
        let channel = world.notes.published.get(&message.id).map(ChannelName::as_str);
        if channel != Some(message.channel.as_str()) {
            faults.push(format!("message {} is stored in {}", message.id, message.channel));
        }
    }
    for (id, offsets) in &by_id {
        if offsets.len() > 1 {
            faults.push(format!("message {id} is stored at {offsets:?}"));
        }
    }
    for (id, told) in &world.notes.acknowledged {
        let told: Vec<u64> = told.iter().copied().collect();
        if by_id.get(id) != Some(&told) {
            faults.push(format!(
                "message {id} was acknowledged at {told:?} and is stored at {:?}",
                by_id.get(id)
            ));
        }
    }
    for id in &world.notes.keyed {
        if !world.notes.acknowledged.contains_key(id) {
            faults.push(format!("message {id} has a key and was never acknowledged"));
        }
    }
}

/// Everything said in a conversation is in each member's inbox, once, in the order of the conversation.
fn in_inboxes(stored: &[Vec<Stored>], faults: &mut Vec<String>) {
    let mut inboxes: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for message in stored.iter().flatten() {
        if let Some(origin) = &message.origin {
            inboxes
                .entry((message.channel.clone(), origin.clone()))
                .or_default()
                .push(message.id);
        }
    }
    let mut expected: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for message in stored.iter().flatten().filter(|message| message.origin.is_none()) {
        let Ok(channel) = ChannelName::parse(&message.channel, 255) else {
            continue;
        };
        for inbox in channel.inboxes().into_iter().flatten() {
            expected
                .entry((inbox.as_str().to_owned(), message.channel.clone()))
                .or_default()
                .push(message.id);
        }
    }
    for (of, ids) in &expected {
        let got = inboxes.remove(of).unwrap_or_default();
        if got != *ids {
            faults.push(format!(
                "inbox and conversation {of:?}: {}",
                difference(ids, &got)
            ));
        }
    }
    for (of, got) in inboxes {
        faults.push(format!("inbox entries of {of:?} that nobody said: {got:?}"));
    }
}

/// Every subscriber was given everything of its channels behind where it began, once and in order;
/// only what was purged was ever called lost.
fn given_to_subscribers(world: &World, stored: &[Vec<Stored>], faults: &mut Vec<String>) {
    for client in &world.clients {
        for (channel, subscription) in &client.subscriptions {
            let number = client.number;
            let of_channel: Vec<(u64, u64)> = stored
                .iter()
                .flatten()
                .filter(|message| message.channel == channel.as_str())
                .map(|message| (message.offset, message.id))
                .collect();
            if !subscription.is_running {
                faults.push(format!(
                    "client {number} is not subscribed to {channel} in the end"
                ));
            }
            for (index, piece) in subscription.pieces.iter().enumerate() {
                let until = match subscription.pieces.get(index + 1) {
                    Some(Piece {
                        lost: Some((had, purged)),
                        ..
                    }) => {
                        if purged <= had {
                            faults.push(format!(
                                "client {number} was told that something of {channel} behind {had} is lost; \
                                 purged is only up to {purged}"
                            ));
                        }
                        *had
                    }
                    Some(Piece { lost: None, .. }) => {
                        faults.push(format!(
                            "client {number} began {channel} anew without being asked"
                        ));
                        0
                    }
                    None => u64::MAX,
                };
                let expected: Vec<(u64, u64)> = of_channel
                    .iter()
                    .copied()
                    .filter(|(offset, _)| *offset > piece.from && *offset <= until)
                    .collect();
                if piece.got != expected {
                    faults.push(format!(
                        "client {number}, {channel}, behind {}: {}",
                        piece.from,
                        difference(&expected, &piece.got)
                    ));
                }
            }
        }
    }
}

fn difference<T: PartialEq + std::fmt::Debug>(expected: &[T], got: &[T]) -> String {
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    format!(
        "of {} expected {} came; they differ at {same}: expected {:?}, came {:?}",
        expected.len(),
        got.len(),
        expected.iter().skip(same).take(4).collect::<Vec<_>>(),
        got.iter().skip(same).take(4).collect::<Vec<_>>()
    )
}
