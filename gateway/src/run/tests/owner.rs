//! The owner of one channel's shard, as a test has it speak.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::{Bus, Pattern, Subject, Subscription};
use switchboard_proto::bus::{
    Delivered, Delivery, Down, DownItem, HistoryAnswer, HistoryOutcome, HistoryQuestion, InForce, Message,
    Opened, OwnerBeat, PayloadKind, Recover, Recovered, RecoveredOutcome, Up, down_item, up_item,
};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, SHARD_HASH, ShardCount, ShardId};

use super::harness::{DEADLINE, Node, SHARDS};

pub(super) struct Owner {
    bus: Arc<dyn Bus>,
    shard: ShardId,
    ordinal: u32,
    frames: Subscription,
    /// Questions about history.
    questions: Subscription,
    /// What came and was not asked for yet, with the number of its frame.
    items: VecDeque<(u64, up_item::Item)>,
    /// Frames of others on the bus are passed over.
    gateway: Incarnation,
    open: u64,
    number: u64,
}

impl Owner {
    /// Owns the shard of `channel`, in the life `ordinal` of its log, and has answered the gateway's opening.
    pub(super) async fn of(node: &Node, channel: &str, ordinal: u32, position: u64) -> Self {
        let bus = Arc::clone(&node.bus);
        let shard = ShardId::of_channel(channel, ShardCount::new(SHARDS).unwrap());
        let router = Incarnation::random();
        let up = Subject::LinkUp { shard, router };
        let frames = bus.subscribe(Pattern::Exactly(up), 4096).await.unwrap();
        let history = Subject::History { shard, router };
        let questions = bus.subscribe(Pattern::Exactly(history), 4096).await.unwrap();
        let beat = OwnerBeat {
            shard: shard.get().into(),
            router: router.to_bytes(),
            ordinal,
            owner_epoch: 1,
            released: false,
            shards: SHARDS,
            hash: SHARD_HASH.to_owned(),
        };
        bus.publish(Subject::OwnerBeat { shard }, format::encode(&beat))
            .await
            .unwrap();
        let mut owner = Self {
            bus,
            shard,
            ordinal,
            frames,
            questions,
            items: VecDeque::new(),
            gateway: node.incarnation,
            open: 0,
            number: 0,
        };
        let (_, item) = owner.item().await;
        // Channels that it announces are taken for known.
        assert!(matches!(item, up_item::Item::Open(_)), "not an opening: {item:?}");
        let opened = Opened {
            log_epoch: owner.log_epoch(),
            position,
        };
        owner.send(down_item::Item::Opened(opened)).await;
        owner
    }

    pub(super) fn log_epoch(&self) -> String {
        format!("{}-00000001", self.ordinal)
    }

    /// The next thing that the gateway sends, and its frame's number. Beats are passed over.
    pub(super) async fn item(&mut self) -> (u64, up_item::Item) {
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            let frame = tokio::time::timeout(DEADLINE, self.frames.next()).await;
            let frame = frame.expect("a frame in time").expect("a running bus");
            let frame: Up = format::decode(frame.payload).unwrap();
            if Incarnation::try_from(frame.gateway.as_ref()).unwrap() != self.gateway {
                continue;
            }
            if frame.open != self.open {
                (self.open, self.number) = (frame.open, 0);
            }
            let items = frame.items.into_iter().filter_map(|item| item.item);
            let items = items.filter(|item| !matches!(item, up_item::Item::Beat(_)));
            self.items.extend(items.map(|item| (frame.number, item)));
        }
    }

    pub(super) async fn send(&mut self, item: down_item::Item) {
        self.number += 1;
        let frame = Down {
            shard: self.shard.get().into(),
            ordinal: self.ordinal,
            owner_epoch: 1,
            open: self.open,
            number: self.number,
            items: vec![DownItem { item: Some(item) }],
        };
        let (gateway, shard) = (self.gateway, self.shard);
        let subject = Subject::LinkDown { gateway, shard };
        self.bus.publish(subject, format::encode(&frame)).await.unwrap();
    }

    /// The gateway asks for one channel, whose newest message is `head`.
    pub(super) async fn in_force(&mut self, head: u64) {
        let (up_number, item) = self.item().await;
        assert!(
            matches!(&item, up_item::Item::Interest(interest) if interest.add.len() == 1),
            "{item:?}"
        );
        let heads = vec![head];
        self.send(down_item::Item::InForce(InForce { up_number, heads }))
            .await;
    }

    /// The gateway asks what was missed.
    pub(super) async fn asked(&mut self) -> Recover {
        match self.item().await {
            (_, up_item::Item::Recover(recover)) => recover,
            (_, other) => panic!("not a question: {other:?}"),
        }
    }

    pub(super) async fn recovered(
        &mut self,
        asked: &Recover,
        outcome: RecoveredOutcome,
        up_to: u64,
        messages: Vec<Delivered>,
        more: bool,
    ) {
        let recovered = Recovered {
            question: asked.question,
            outcome: outcome.into(),
            up_to,
            messages,
            more,
        };
        self.send(down_item::Item::Recovered(recovered)).await;
    }

    /// The next question about history, and where its answer goes.
    pub(super) async fn history_asked(&mut self) -> (HistoryQuestion, String) {
        let asked = tokio::time::timeout(DEADLINE, self.questions.next()).await;
        let asked = asked.expect("a question in time").expect("a running bus");
        (format::decode(asked.payload).unwrap(), asked.reply.unwrap())
    }

    /// Everything there is.
    pub(super) async fn history(&self, to: &str, head: u64, messages: Vec<Delivered>) {
        self.history_page(to, head, messages, false).await;
    }

    /// A page; whether there is nothing more. A message's time is its offset, in milliseconds.
    pub(super) async fn history_page(&self, to: &str, head: u64, messages: Vec<Delivered>, ended: bool) {
        let answer = HistoryAnswer {
            outcome: HistoryOutcome::Complete.into(),
            log_epoch: self.log_epoch(),
            head,
            times_us: messages.iter().map(|message| message.offset * 1000).collect(),
            messages,
            ended,
        };
        self.bus.reply(to, format::encode(&answer)).await.unwrap();
    }

    /// Nothing, for this reason.
    pub(super) async fn no_history(&self, to: &str, outcome: HistoryOutcome) {
        let answer = HistoryAnswer {
            outcome: outcome.into(),
            ..HistoryAnswer::default()
        };
        self.bus.reply(to, format::encode(&answer)).await.unwrap();
    }

    pub(super) async fn deliver(&mut self, after: u64, up_to: u64, messages: Vec<Delivered>) {
        let delivery = Delivery {
            after,
            up_to,
            messages,
        };
        self.send(down_item::Item::Delivery(delivery)).await;
    }
}

/// A message whose payload is its offset, and as long as `padding` more.
pub(super) fn message(channel: &str, offset: u64, padding: usize) -> Delivered {
    let payload = if padding == 0 {
        offset.to_string()
    } else {
        format!("[{offset},\"{}\"]", "x".repeat(padding))
    };
    let message = Message {
        id: Bytes::from_static(&[7; 16]),
        channel: channel.to_owned(),
        kind: PayloadKind::Json.into(),
        payload: payload.into(),
        ..Message::default()
    };
    Delivered {
        offset,
        message: message.encode_to_vec().into(),
    }
}
