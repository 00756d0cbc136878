//! Messages to text, written by hand around payloads: serde would parse each payload again.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use serde::Serialize as _;
use serde::ser::Error as _;
use serde_json::value::RawValue;

use crate::client::{
    ClientInfo, Command, Connect, ConnectRequest, ConnectResult, Disconnect, Error, FilterNode,
    HistoryRequest, HistoryResult, Publication, Push, Refresh, RefreshResult, Reply, StreamPosition,
    SubRefreshResult, Subscribe, SubscribeRequest, SubscribeResult, Unsubscribe,
};

/// Writes a payload field of the server API as the JSON that it is. Fails where it is none.
pub(crate) fn as_it_stands<S: serde::Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::from_slice::<&RawValue>(payload)
        .map_err(|_| S::Error::custom("a payload that is not JSON"))?
        .serialize(serializer)
}

/// Appends a reply: a result, an error, a push, or, empty, a ping. One message without a newline;
/// the caller joins several with one.
///
/// Zero values are left out, except those SDKs read without a default: a result object, also an
/// empty one; code and words of errors, unsubscribes and disconnects; user and client of a client;
/// what presence and history consist of; and `ttl` beside a true `expires`.
///
/// Payloads have to be JSON; what else a payload may hold must not be sent to a JSON connection.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |fields| {
        fields.unsigned("id", reply.id);
        fields.message("error", reply.error.as_ref(), error);
        fields.message("push", reply.push.as_ref(), push);
        fields.message("connect", reply.connect.as_ref(), connect_result);
        fields.message("subscribe", reply.subscribe.as_ref(), subscribe_result);
        fields.message("unsubscribe", reply.unsubscribe.as_ref(), |_, _| {});
        fields.message("publish", reply.publish.as_ref(), |_, _| {});
        fields.message("presence", reply.presence.as_ref(), |fields, result| {
            fields.key("presence");
            fields.map(&result.presence, client_info);
        });
        fields.message(
            "presence_stats",
            reply.presence_stats.as_ref(),
            |fields, result| {
                fields.always("num_clients", result.num_clients);
                fields.always("num_users", result.num_users);
            },
        );
        fields.message("history", reply.history.as_ref(), history_result);
        fields.message("ping", reply.ping.as_ref(), |_, _| {});
        fields.message("rpc", reply.rpc.as_ref(), |fields, result| {
            fields.payload("data", &result.data)
        });
        fields.message("refresh", reply.refresh.as_ref(), refresh_result);
        fields.message("sub_refresh", reply.sub_refresh.as_ref(), sub_refresh_result);
    });
}

/// Appends a command: what a client does. For tests and load generators.
pub fn write_command(command: &Command, out: &mut Vec<u8>) {
    object(out, |fields| {
        fields.unsigned("id", command.id);
        fields.message("connect", command.connect.as_ref(), connect_request);
        fields.message("subscribe", command.subscribe.as_ref(), subscribe_request);
        fields.message("unsubscribe", command.unsubscribe.as_ref(), |fields, request| {
            fields.text("channel", &request.channel);
        });
        fields.message("publish", command.publish.as_ref(), |fields, request| {
            fields.text("channel", &request.channel);
            fields.payload("data", &request.data);
            fields.signed("type", request.r#type);
        });
        fields.message("presence", command.presence.as_ref(), |fields, request| {
            fields.text("channel", &request.channel);
        });
        fields.message(
            "presence_stats",
            command.presence_stats.as_ref(),
            |fields, request| {
                fields.text("channel", &request.channel);
            },
        );
        fields.message("history", command.history.as_ref(), history_request);
        fields.message("ping", command.ping.as_ref(), |_, _| {});
        fields.message("send", command.send.as_ref(), |fields, request| {
            fields.payload("data", &request.data)
        });
        fields.message("rpc", command.rpc.as_ref(), |fields, request| {
            fields.payload("data", &request.data);
            fields.text("method", &request.method);
        });
        fields.message("refresh", command.refresh.as_ref(), |fields, request| {
            fields.text("token", &request.token);
        });
        fields.message("sub_refresh", command.sub_refresh.as_ref(), |fields, request| {
            fields.text("channel", &request.channel);
            fields.text("token", &request.token);
        });
    });
}

// ---- replies

fn error(fields: &mut Fields<'_>, error: &Error) {
    fields.always("code", error.code);
    fields.key("message");
    fields.string(&error.message);
    fields.boolean("temporary", error.temporary);
}

fn push(fields: &mut Fields<'_>, push: &Push) {
    fields.signed("id", push.id);
    fields.text("channel", &push.channel);
    fields.message("pub", push.r#pub.as_ref(), publication);
    fields.message("join", push.join.as_ref(), |fields, join| {
        fields.message("info", join.info.as_ref(), client_info);
    });
    fields.message("leave", push.leave.as_ref(), |fields, leave| {
        fields.message("info", leave.info.as_ref(), client_info);
    });
    fields.message("unsubscribe", push.unsubscribe.as_ref(), unsubscribe);
    fields.message("message", push.message.as_ref(), |fields, message| {
        fields.payload("data", &message.data)
    });
    fields.message("subscribe", push.subscribe.as_ref(), subscribe);
    fields.message("connect", push.connect.as_ref(), connect);
    fields.message("disconnect", push.disconnect.as_ref(), disconnect);
    fields.message("refresh", push.refresh.as_ref(), refresh);
}

fn publication(fields: &mut Fields<'_>, publication: &Publication) {
    fields.payload("data", &publication.data);
    fields.message("info", publication.info.as_ref(), client_info);
    fields.unsigned("offset", publication.offset);
    fields.texts("tags", &publication.tags);
    fields.boolean("delta", publication.delta);
    fields.signed("time", publication.time);
}

fn client_info(fields: &mut Fields<'_>, info: &ClientInfo) {
    fields.key("user");
    fields.string(&info.user);
    fields.key("client");
    fields.string(&info.client);
    fields.payload("conn_info", &info.conn_info);
    fields.payload("chan_info", &info.chan_info);
}

fn unsubscribe(fields: &mut Fields<'_>, unsubscribe: &Unsubscribe) {
    fields.always("code", unsubscribe.code);
    fields.key("reason");
    fields.string(&unsubscribe.reason);
}

fn subscribe(fields: &mut Fields<'_>, subscribe: &Subscribe) {
    fields.boolean("recoverable", subscribe.recoverable);
    fields.text("epoch", &subscribe.epoch);
    fields.unsigned("offset", subscribe.offset);
    fields.boolean("positioned", subscribe.positioned);
    fields.payload("data", &subscribe.data);
}

fn connect(fields: &mut Fields<'_>, connect: &Connect) {
    fields.text("client", &connect.client);
    fields.text("version", &connect.version);
    fields.payload("data", &connect.data);
    fields.messages("subs", &connect.subs, subscribe_result);
    fields.expiry(connect.expires, connect.ttl);
    fields.unsigned("ping", connect.ping);
    fields.boolean("pong", connect.pong);
    fields.text("session", &connect.session);
    fields.text("node", &connect.node);
    fields.signed("time", connect.time);
}

fn disconnect(fields: &mut Fields<'_>, disconnect: &Disconnect) {
    fields.always("code", disconnect.code);
    fields.key("reason");
    fields.string(&disconnect.reason);
    fields.boolean("reconnect", disconnect.reconnect);
}

fn refresh(fields: &mut Fields<'_>, refresh: &Refresh) {
    fields.expiry(refresh.expires, refresh.ttl);
}

fn connect_result(fields: &mut Fields<'_>, result: &ConnectResult) {
    fields.text("client", &result.client);
    fields.text("version", &result.version);
    fields.expiry(result.expires, result.ttl);
    fields.payload("data", &result.data);
    fields.messages("subs", &result.subs, subscribe_result);
    fields.unsigned("ping", result.ping);
    fields.boolean("pong", result.pong);
    fields.text("session", &result.session);
    fields.text("node", &result.node);
    fields.signed("time", result.time);
}

fn subscribe_result(fields: &mut Fields<'_>, result: &SubscribeResult) {
    fields.expiry(result.expires, result.ttl);
    fields.boolean("recoverable", result.recoverable);
    fields.text("epoch", &result.epoch);
    if !result.publications.is_empty() {
        fields.list("publications", &result.publications, publication);
    }
    fields.boolean("recovered", result.recovered);
    fields.unsigned("offset", result.offset);
    fields.boolean("positioned", result.positioned);
    fields.payload("data", &result.data);
    fields.boolean("was_recovering", result.was_recovering);
    fields.boolean("delta", result.delta);
}

fn history_result(fields: &mut Fields<'_>, result: &HistoryResult) {
    fields.list("publications", &result.publications, publication);
    fields.key("epoch");
    fields.string(&result.epoch);
    fields.always("offset", result.offset);
}

fn refresh_result(fields: &mut Fields<'_>, result: &RefreshResult) {
    fields.text("client", &result.client);
    fields.text("version", &result.version);
    fields.expiry(result.expires, result.ttl);
}

fn sub_refresh_result(fields: &mut Fields<'_>, result: &SubRefreshResult) {
    fields.expiry(result.expires, result.ttl);
}

// ---- commands

fn connect_request(fields: &mut Fields<'_>, request: &ConnectRequest) {
    fields.text("token", &request.token);
    fields.payload("data", &request.data);
    fields.messages("subs", &request.subs, subscribe_request);
    fields.text("name", &request.name);
    fields.text("version", &request.version);
    fields.texts("headers", &request.headers);
    fields.signed("flag", request.flag);
}

fn subscribe_request(fields: &mut Fields<'_>, request: &SubscribeRequest) {
    fields.text("channel", &request.channel);
    fields.text("token", &request.token);
    fields.boolean("recover", request.recover);
    fields.text("epoch", &request.epoch);
    fields.unsigned("offset", request.offset);
    fields.payload("data", &request.data);
    fields.boolean("positioned", request.positioned);
    fields.boolean("recoverable", request.recoverable);
    fields.boolean("join_leave", request.join_leave);
    fields.text("delta", &request.delta);
    fields.message("tf", request.tf.as_ref(), filter);
    fields.signed("flag", request.flag);
    fields.signed("type", request.r#type);
}

fn filter(fields: &mut Fields<'_>, node: &FilterNode) {
    fields.text("op", &node.op);
    fields.text("key", &node.key);
    fields.text("cmp", &node.cmp);
    fields.text("val", &node.val);
    if !node.vals.is_empty() {
        fields.key("vals");
        joined(fields.out, b'[', &node.vals, b']', |out, val| string(out, val));
    }
    if !node.nodes.is_empty() {
        fields.list("nodes", &node.nodes, filter);
    }
}

fn history_request(fields: &mut Fields<'_>, request: &HistoryRequest) {
    fields.text("channel", &request.channel);
    fields.signed("limit", request.limit);
    fields.message(
        "since",
        request.since.as_ref(),
        |fields, since: &StreamPosition| {
            fields.unsigned("offset", since.offset);
            fields.text("epoch", &since.epoch);
        },
    );
    fields.boolean("reverse", request.reverse);
}

// ---- text

fn object(out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) {
    out.push(b'{');
    write(&mut Fields { out, any: false });
    out.push(b'}');
}

fn joined<T>(
    out: &mut Vec<u8>,
    open: u8,
    items: impl IntoIterator<Item = T>,
    close: u8,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(close);
}

fn string(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "a vector takes every write");
}

/// An object in the making.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    any: bool,
}

impl Fields<'_> {
    /// `name` needs no escaping. The value has to follow.
    fn key(&mut self, name: &'static str) {
        if self.any {
            self.out.push(b',');
        }
        self.any = true;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn string(&mut self, text: &str) {
        string(self.out, text);
    }

    fn text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.key(name);
            self.string(text);
        }
    }

    fn boolean(&mut self, name: &'static str, value: bool) {
        if value {
            self.key(name);
            self.out.extend_from_slice(b"true");
        }
    }

    fn unsigned(&mut self, name: &'static str, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.always(name, value);
        }
    }

    fn signed(&mut self, name: &'static str, value: impl Into<i64>) {
        let value = value.into();
        if value != 0 {
            self.key(name);
            let written = write!(self.out, "{value}");
            debug_assert!(written.is_ok(), "a vector takes every write");
        }
    }

    /// A number that is written also when it is zero.
    fn always(&mut self, name: &'static str, value: impl Into<u64>) {
        self.key(name);
        let written = write!(self.out, "{}", value.into());
        debug_assert!(written.is_ok(), "a vector takes every write");
    }

    /// SDKs that are told of an expiry read `ttl` without a default.
    fn expiry(&mut self, expires: bool, ttl: u32) {
        self.boolean("expires", expires);
        if expires || ttl != 0 {
            self.always("ttl", ttl);
        }
    }

    /// Raw line breaks go: in valid JSON they can only be white space, and clients split frames at
    /// them.
    fn payload(&mut self, name: &'static str, json: &[u8]) {
        if json.is_empty() {
            return;
        }
        self.key(name);
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        if json.iter().any(is_break) {
            self.out.extend(json.iter().filter(|byte| !is_break(byte)));
        } else {
            self.out.extend_from_slice(json);
        }
    }

    /// Present also when empty: an empty result is the whole answer to a publish.
    fn message<M>(
        &mut self,
        name: &'static str,
        message: Option<&M>,
        write: impl FnOnce(&mut Fields<'_>, &M),
    ) {
        if let Some(message) = message {
            self.key(name);
            object(self.out, |fields| write(fields, message));
        }
    }

    fn list<M>(&mut self, name: &'static str, messages: &[M], write: impl Fn(&mut Fields<'_>, &M)) {
        self.key(name);
        joined(self.out, b'[', messages, b']', |out, message| {
            object(out, |fields| write(fields, message));
        });
    }

    /// A map behind a key that was written.
    fn map<M>(&mut self, messages: &BTreeMap<String, M>, write: impl Fn(&mut Fields<'_>, &M)) {
        joined(self.out, b'{', messages, b'}', |out, (name, message)| {
            string(out, name);
            out.push(b':');
            object(out, |fields| write(fields, message));
        });
    }

    fn messages<M>(
        &mut self,
        name: &'static str,
        messages: &BTreeMap<String, M>,
        write: impl Fn(&mut Fields<'_>, &M),
    ) {
        if !messages.is_empty() {
            self.key(name);
            self.map(messages, write);
        }
    }

    fn texts(&mut self, name: &'static str, texts: &BTreeMap<String, String>) {
        if !texts.is_empty() {
            self.key(name);
            joined(self.out, b'{', texts, b'}', |out, (name, text)| {
                string(out, name);
                out.push(b':');
                string(out, text);
            });
        }
    }
}
