"""Tokens, with the unchanged SDK for Python: `python -m unittest -v tokens_test`.

SWITCHBOARD_SECRET is the gateways' HMAC secret; they allow no leeway, and three seconds of grace behind an expiry.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
import unittest

from centrifuge import Client, ClientState

from sdk_test import DEADLINE, ENDPOINTS, Events, Inbox, fresh_channel

SECRET = os.environ.get("SWITCHBOARD_SECRET", "")


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(claims, secret=SECRET):
    body = encode(b'{"alg":"HS256","typ":"JWT"}') + "." + encode(json.dumps(claims).encode())
    return body + "." + encode(hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest())


class Tokens:
    """A `get_token` that makes the next token from how often it was asked, and lets that be waited for."""

    def __init__(self, claims):
        self.count = 0
        self._claims = claims
        self._changed = asyncio.Condition()

    async def __call__(self, *_):
        async with self._changed:
            self.count += 1
            self._changed.notify_all()
        return sign(self._claims(self.count))

    async def reach(self, count):
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: self.count >= count), DEADLINE)


class TokensTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.assertTrue(ENDPOINTS, "SWITCHBOARD_ENDPOINTS names no gateway")
        self.assertTrue(SECRET, "SWITCHBOARD_SECRET is not set")

    def client(self, gateway=0, **options):
        events = Events()
        client = Client(ENDPOINTS[gateway % len(ENDPOINTS)], events=events, proxy=None, **options)
        self.addAsyncCleanup(client.disconnect)
        return client, events

    async def connect(self, gateway=0, **options):
        client, events = self.client(gateway, **options)
        await client.connect()
        await client.ready(DEADLINE)
        return client, events

    async def subscribe(self, client, channel, **options):
        inbox = Inbox()
        inbox.subscription = client.new_subscription(channel, events=inbox, **options)
        await inbox.subscription.subscribe()
        await inbox.subscription.ready(DEADLINE)
        return inbox

    async def until_disconnected(self, client):
        async def ended():
            while client.state != ClientState.DISCONNECTED:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(ended(), DEADLINE)

    async def test_who_has_no_token_or_a_forged_one_is_turned_away(self):
        for token, code in [
            ("", 3501),
            ("x.y.z", 3500),
            (sign({"sub": "alice"}, "another secret"), 3500),
            (sign({"sub": "alice", "expire_at": time.time() - 10}), 110),
        ]:
            with self.subTest(code=code):
                client, events = self.client(token=token)
                await client.connect()
                await self.until_disconnected(client)
                self.assertEqual([event.code for event in events.interruptions], [code])

    async def test_a_token_is_refreshed_and_the_connection_stays(self):
        tokens = Tokens(lambda _: {"sub": "alice", "exp": time.time() + 2, "info": {"name": "Alice"}})
        client, events = await self.connect(get_token=tokens)
        inbox = await self.subscribe(client, fresh_channel())
        await tokens.reach(4)
        await inbox.subscription.publish("still here", timeout=DEADLINE)
        await inbox.until(1)
        self.assertEqual(events.interruptions, [])
        info = inbox.publications[0].info
        self.assertEqual((info.user, info.conn_info), ("alice", {"name": "Alice"}))

    async def test_an_expired_token_makes_the_sdk_fetch_another_one(self):
        tokens = Tokens(lambda _: {"sub": "alice", "exp": time.time() + 600})
        await self.connect(token=sign({"sub": "alice", "exp": time.time() - 10}), get_token=tokens)
        self.assertEqual(tokens.count, 1)

    async def test_a_subscription_token_is_refreshed_and_the_subscription_stays(self):
        channel = fresh_channel()
        tokens = Tokens(lambda _: {"sub": "alice", "channel": channel, "exp": time.time() + 2, "info": {"role": "speaker"}})
        client, events = await self.connect(token=sign({"sub": "alice"}))
        inbox = await self.subscribe(client, channel, get_token=tokens)
        await tokens.reach(4)
        await inbox.subscription.publish("still here", timeout=DEADLINE)
        await inbox.until(1)
        self.assertEqual(inbox.publications[0].info.chan_info, {"role": "speaker"})
        self.assertEqual(events.interruptions, [])
        self.assertTrue(inbox.unsubscribed.empty())

    async def test_a_subscription_token_that_is_not_valid_ends_nothing_else(self):
        client, events = await self.connect(token=sign({"sub": "alice"}))
        inbox = Inbox()
        await client.new_subscription(fresh_channel(), events=inbox, token="x.y.z").subscribe()
        refused = await asyncio.wait_for(inbox.unsubscribed.get(), DEADLINE)
        self.assertEqual(refused.code, 103)
        self.assertEqual((client.state, events.interruptions), (ClientState.CONNECTED, []))

    async def test_the_subscription_token_of_another_user_ends_the_connection(self):
        channel = fresh_channel()
        client, events = await self.connect(token=sign({"sub": "bob"}))
        await client.new_subscription(channel, token=sign({"sub": "alice", "channel": channel})).subscribe()
        await self.until_disconnected(client)
        self.assertEqual([event.code for event in events.interruptions], [3500])


if __name__ == "__main__":
    unittest.main()
