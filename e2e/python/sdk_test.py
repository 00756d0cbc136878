"""The unchanged SDK for Python, over WebSocket, against a running system: `python -m unittest -v sdk_test`.

SWITCHBOARD_ENDPOINTS names the gateways under test: WebSocket URLs, separated by commas. SWITCHBOARD_ENCODING is the encoding
that clients speak, "json" (the default) or "protobuf".
"""

import asyncio
import dataclasses
import json
import os
import unittest
import uuid
from urllib.parse import urlsplit, urlunsplit

from centrifuge import (
    Client,
    ClientEventHandler,
    ClientState,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
    SubscriptionState,
)

DEADLINE = 15.0
ENDPOINTS = [url for url in os.environ.get("SWITCHBOARD_ENDPOINTS", "").split(",") if url]


PROTOBUF = os.environ.get("SWITCHBOARD_ENCODING", "json") == "protobuf"


class ProtobufWithJson(Client):
    """With Protobuf the SDK leaves the form of payloads to the application. Here they are JSON all the same, so that one set of
    tests serves both encodings."""

    def __init__(self, *args, **options):
        super().__init__(*args, use_protobuf=True, **options)

    async def publish(self, channel, data, timeout=None):
        return await super().publish(channel, json.dumps(data).encode(), timeout=timeout)

    async def rpc(self, method, data, timeout=None):
        return await super().rpc(method, json.dumps(data).encode(), timeout=timeout)


def fresh_channel():
    """A name nobody else uses: tests run against one system and must not meet."""
    return f"room:{uuid.uuid4()}"


class Events(ClientEventHandler):
    """Keeps what happened to a connection."""

    def __init__(self):
        self.connected = asyncio.Queue()
        self.interruptions = []

    async def on_connected(self, ctx):
        self.connected.put_nowait(ctx)

    async def on_connecting(self, ctx):
        # Code 0 is our own connect().
        if ctx.code != 0:
            self.interruptions.append(ctx)

    async def on_disconnected(self, ctx):
        self.interruptions.append(ctx)


class Inbox(SubscriptionEventHandler):
    """Keeps what a subscription is given."""

    def __init__(self):
        self.publications = []
        self.subscribed = asyncio.Queue()
        self.unsubscribed = asyncio.Queue()
        self._changed = asyncio.Condition()
        self.subscription = None

    async def on_publication(self, ctx):
        publication = ctx.pub
        if isinstance(publication.data, bytes):
            publication = dataclasses.replace(publication, data=json.loads(publication.data))
        await self.keep(publication)

    async def keep(self, publication):
        async with self._changed:
            self.publications.append(publication)
            self._changed.notify_all()

    async def on_subscribed(self, ctx):
        self.subscribed.put_nowait(ctx)

    async def on_unsubscribed(self, ctx):
        self.unsubscribed.put_nowait(ctx)

    @property
    def data(self):
        return [publication.data for publication in self.publications]

    async def when(self, condition):
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), DEADLINE)

    async def until(self, count):
        await self.when(lambda: len(self.publications) >= count)


class RawInbox(Inbox):
    """Keeps payloads as they come."""

    async def on_publication(self, ctx):
        await self.keep(ctx.pub)


class Line:
    """A TCP line to a gateway that a test can cut."""

    def __init__(self, url):
        self._to = urlsplit(url)
        self._is_cut = False
        self._writers = set()
        self._server = None
        self.url = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = urlunsplit(self._to._replace(netloc=f"{host}:{port}"))
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()

    async def _carry(self, reader, writer):
        if self._is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._to.hostname, self._to.port)
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader, writer):
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    def cut(self):
        self._is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self):
        self._is_cut = False


class SdkTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.assertTrue(ENDPOINTS, "SWITCHBOARD_ENDPOINTS names no gateway")

    async def connect(self, gateway=0, url=None, sdk=ProtobufWithJson if PROTOBUF else Client, **options):
        events = Events()
        # No proxy: what the environment names is not for addresses of this machine.
        client = sdk(url or ENDPOINTS[gateway % len(ENDPOINTS)], events=events, proxy=None, **options)
        self.addAsyncCleanup(client.disconnect)
        await client.connect()
        await client.ready(DEADLINE)
        return client, events

    async def subscribe(self, client, channel, inbox_class=Inbox, **options):
        inbox = inbox_class()
        inbox.subscription = client.new_subscription(channel, events=inbox, **options)
        await inbox.subscription.subscribe()
        await inbox.subscription.ready(DEADLINE)
        return inbox

    async def test_the_reply_to_connect_names_connection_and_version(self):
        client, events = await self.connect()
        context = await asyncio.wait_for(events.connected.get(), DEADLINE)
        self.assertEqual(str(uuid.UUID(context.client)), context.client)
        self.assertTrue(context.version)
        self.assertEqual(client.state, ClientState.CONNECTED)

    async def test_own_publications_come_back_with_info_and_growing_offsets(self):
        client, events = await self.connect()
        context = await asyncio.wait_for(events.connected.get(), DEADLINE)
        inbox = await self.subscribe(client, fresh_channel())
        for number in range(5):
            await inbox.subscription.publish({"number": number}, timeout=DEADLINE)
        await inbox.until(5)
        self.assertEqual(inbox.data, [{"number": number} for number in range(5)])
        self.assertEqual({publication.info.client for publication in inbox.publications}, {context.client})
        offsets = [publication.offset for publication in inbox.publications]
        self.assertEqual(offsets, sorted(set(offsets)))
        self.assertGreater(offsets[0], 0)

    async def test_everything_that_json_can_say_arrives_as_it_was(self):
        client, _ = await self.connect()
        inbox = await self.subscribe(client, fresh_channel())
        payloads = [
            {"text": ""},
            "line\nbreak \u2028 \\ \"",
            0,
            -1.5e-7,
            False,
            [],
            {"nested": {"nothing": None}},
            "žluťoučký kůň 👩‍👩‍👧‍👦 漢字",
            "x" * 60_000,
        ]
        for payload in payloads:
            await inbox.subscription.publish(payload, timeout=DEADLINE)
        await inbox.until(len(payloads))
        self.assertEqual(inbox.data, payloads)

    @unittest.skipUnless(PROTOBUF, "only Protobuf can carry them")
    async def test_bytes_that_are_not_json_arrive_as_they_were(self):
        client, _ = await self.connect(0, sdk=Client, use_protobuf=True)
        other, _ = await self.connect(1, sdk=Client, use_protobuf=True)
        channel = fresh_channel()
        inboxes = [await self.subscribe(each, channel, RawInbox) for each in (client, other)]
        payloads = [bytes(range(256)), b"boom", b"\n", b"\0", os.urandom(60_000), b" [1,\n2] "]
        for payload in payloads:
            await client.publish(channel, payload, timeout=DEADLINE)
        for inbox in inboxes:
            await inbox.until(len(payloads))
            self.assertEqual(inbox.data, payloads)

    async def test_many_publishers_every_subscriber_gets_everything_once_in_one_order(self):
        publishers, each = 4, 50
        channel = fresh_channel()
        inboxes = []
        for gateway in range(2 * len(ENDPOINTS)):
            client, _ = await self.connect(gateway)
            inboxes.append(await self.subscribe(client, channel))
        clients = [(await self.connect(gateway))[0] for gateway in range(publishers)]

        async def publish_all(publisher, client):
            for number in range(each):
                await client.publish(channel, {"publisher": publisher, "number": number}, timeout=DEADLINE)

        await asyncio.gather(*(publish_all(publisher, client) for publisher, client in enumerate(clients)))
        # Whatever was to come comes before this one.
        await clients[0].publish(channel, "last", timeout=DEADLINE)
        for inbox in inboxes:
            await inbox.when(lambda inbox=inbox: bool(inbox.data) and inbox.data[-1] == "last")

        reference = [(publication.offset, publication.data) for publication in inboxes[0].publications]
        self.assertEqual(len(reference), publishers * each + 1)
        for inbox in inboxes:
            self.assertEqual([(p.offset, p.data) for p in inbox.publications], reference)
        offsets = [offset for offset, _ in reference]
        self.assertEqual(offsets, sorted(set(offsets)))
        for publisher in range(publishers):
            numbers = [data["number"] for _, data in reference[:-1] if data["publisher"] == publisher]
            self.assertEqual(numbers, list(range(each)))

    async def test_after_unsubscribe_nothing_comes(self):
        channel = fresh_channel()
        client, _ = await self.connect(0)
        other, _ = await self.connect(1)
        witness = await self.subscribe(other, channel)
        inbox = await self.subscribe(client, channel)
        await inbox.subscription.unsubscribe()
        self.assertEqual(inbox.subscription.state, SubscriptionState.UNSUBSCRIBED)
        await witness.subscription.publish("unheard", timeout=DEADLINE)
        await witness.until(1)
        # A round trip on the same connection: what was under way before has come by now.
        await self.subscribe(client, fresh_channel())
        self.assertEqual(inbox.data, [])
        await inbox.subscription.subscribe()
        await inbox.subscription.ready(DEADLINE)
        await witness.subscription.publish("heard", timeout=DEADLINE)
        # The SDK keeps its place, so what was said meanwhile comes now.
        await inbox.until(2)
        self.assertEqual(inbox.data, ["unheard", "heard"])

    async def test_what_was_said_while_the_connection_was_cut_comes_once_in_order_as_recovered(self):
        rounds, each = 3, 30
        channel = fresh_channel()
        async with Line(ENDPOINTS[0]) as line:
            client, events = await self.connect(url=line.url, min_reconnect_delay=0.02, max_reconnect_delay=0.1)
            inbox = await self.subscribe(client, channel)
            context = await asyncio.wait_for(inbox.subscribed.get(), DEADLINE)
            self.assertFalse(context.was_recovering)
            other, _ = await self.connect(1)
            number = 0

            async def publish(count):
                nonlocal number
                for _ in range(count):
                    await other.publish(channel, {"number": number}, timeout=DEADLINE)
                    number += 1

            for cuts in range(1, rounds + 1):
                await publish(2)
                await inbox.until(number)
                line.cut()
                await publish(each)
                self.assertLess(len(inbox.publications), number, "nothing came while the connection was cut")
                line.mend()
                # Others go on while it comes back.
                await publish(each)
                context = await asyncio.wait_for(inbox.subscribed.get(), DEADLINE)
                self.assertTrue(context.was_recovering)
                self.assertTrue(context.recovered)
                await inbox.until(number)
                self.assertGreaterEqual(len(events.interruptions), cuts)
            # Whatever else was to come comes before this one.
            await publish(1)
            await inbox.until(number)
            self.assertEqual(inbox.data, [{"number": each} for each in range(number)])
            offsets = [publication.offset for publication in inbox.publications]
            self.assertEqual(offsets, sorted(set(offsets)))
            await client.disconnect()

    async def test_history_forward_backward_in_pages_and_of_another_epoch(self):
        channel = fresh_channel()
        publisher, _ = await self.connect(0)
        for number in range(10):
            await publisher.publish(channel, number, timeout=DEADLINE)
        reader, _ = await self.connect(1)

        async def said(**query):
            result = await reader.history(channel, timeout=DEADLINE, **query)
            data = [json.loads(p.data) if isinstance(p.data, bytes) else p.data for p in result.publications]
            return data, result

        everything, result = await said(limit=-1)
        self.assertEqual(everything, list(range(10)))
        offsets = [publication.offset for publication in result.publications]
        self.assertEqual(offsets, sorted(set(offsets)))
        self.assertEqual(result.offset, offsets[-1])
        self.assertEqual((await said(limit=3))[0], [0, 1, 2])
        self.assertEqual((await said(limit=3, reverse=True))[0], [9, 8, 7])
        self.assertEqual((await said())[0], [])
        since = StreamPosition(offset=offsets[6], epoch=result.epoch)
        self.assertEqual((await said(limit=-1, since=since))[0], [7, 8, 9])
        self.assertEqual((await said(limit=2, since=since, reverse=True))[0], [5, 4])
        with self.assertRaises(ReplyError) as raised:
            await said(limit=1, since=StreamPosition(offset=1, epoch="another"))
        self.assertEqual(raised.exception.code, 112)

    async def test_pings_keep_the_connection(self):
        # This SDK takes only pings for a sign of life. The server pings every second; one that is half a second late, or a
        # pong that the server misses, ends the connection well within these five seconds.
        client, events = await self.connect(max_server_ping_delay=0.5)
        inbox = await self.subscribe(client, fresh_channel())
        loop = asyncio.get_running_loop()
        end = loop.time() + 5.0
        while loop.time() < end:
            # A busy connection must be pinged as well as a quiet one.
            await inbox.subscription.publish("busy", timeout=DEADLINE)
            await asyncio.sleep(0.05)
        self.assertEqual(events.interruptions, [])
        self.assertEqual(client.state, ClientState.CONNECTED)

    async def test_refusals_carry_the_codes_and_leave_the_connection_alone(self):
        client, events = await self.connect()
        for code, channel in [(107, "room:" + "x" * 251), (107, "room:žluť"), (107, "dm:#bob,alice")]:
            with self.subTest(code=code, channel=channel[:20]):
                inbox = Inbox()
                subscription = client.new_subscription(channel, events=inbox)
                await subscription.subscribe()
                refused = await asyncio.wait_for(inbox.unsubscribed.get(), DEADLINE)
                self.assertEqual(refused.code, code)
                with self.assertRaises(ReplyError) as raised:
                    await client.publish(channel, {}, timeout=DEADLINE)
                self.assertEqual(raised.exception.code, code)
        with self.assertRaises(ReplyError) as raised:
            await client.rpc("nothing", {}, timeout=DEADLINE)
        self.assertEqual(raised.exception.code, 108)
        inbox = await self.subscribe(client, fresh_channel())
        await inbox.subscription.publish("after the refusals", timeout=DEADLINE)
        await inbox.until(1)
        self.assertEqual(events.interruptions, [])


if __name__ == "__main__":
    unittest.main()
