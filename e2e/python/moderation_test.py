"""Moderation over gRPC, with a client that protoc makes of our `.proto`: `python -m unittest -v moderation_test`.

SWITCHBOARD_API_ENDPOINTS names the server APIs, separated by commas; SWITCHBOARD_API_KEY opens them.
"""

import time
import unittest
import uuid
from urllib.parse import urlsplit

import grpc

from server_api_test import APIS, KEY, generated

DEADLINE = 30


class Moderation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.api, service = generated()
        cls.channels = [grpc.insecure_channel(urlsplit(url).netloc) for url in APIS]
        cls.stubs = [service.CentrifugoApiStub(channel) for channel in cls.channels]
        cls.metadata = [("authorization", f"apikey {KEY}")]

    @classmethod
    def tearDownClass(cls):
        for channel in cls.channels:
            channel.close()

    def call(self, method, request, at=0):
        response = getattr(self.stubs[at % len(self.stubs)], method)(request, metadata=self.metadata, timeout=DEADLINE)
        self.assertEqual(response.error.code, 0, response.error.message)
        return response.result

    def test_each_act_is_done_and_in_the_log(self):
        user, token = f"u{uuid.uuid4()}", str(uuid.uuid4())
        until = int(time.time()) + 600
        log = self.call("ModerationLog", self.api.ModerationLogRequest())
        acts = [
            ("BlockUser", self.api.BlockUserRequest(user=user, expire_at=until, reason="spam", actor="carol"), "block_user"),
            ("UnblockUser", self.api.UnblockUserRequest(user=user), "unblock_user"),
            ("MuteUser", self.api.MuteUserRequest(user=user, channel="room:1"), "mute_user"),
            ("UnmuteUser", self.api.UnmuteUserRequest(user=user, channel="room:1"), "unmute_user"),
            ("RevokeToken", self.api.RevokeTokenRequest(uid=token, expire_at=until), "revoke_token"),
            ("InvalidateUserTokens", self.api.InvalidateUserTokensRequest(user=user, issued_before=1000), "invalidate_user_tokens"),
        ]
        for turn, (method, request, _) in enumerate(acts):
            result = self.call(method, request, turn)
            self.assertTrue(result.changed)
            self.assertTrue(result.everywhere)
            self.assertEqual(result.number, log.last + 1 + turn)
        entries = self.call("ModerationLog", self.api.ModerationLogRequest(after=log.last)).entries
        self.assertEqual([entry.act for entry in entries], [name for _, _, name in acts])
        self.assertEqual((entries[0].reason, entries[0].actor, entries[0].expire_at), ("spam", "carol", until))
        self.assertEqual(entries[4].uid, token)
        self.assertEqual(entries[5].issued_before, 1000)
        state = self.call("ModerationState", self.api.ModerationStateRequest(user=user)).restrictions
        self.assertEqual([one.act for one in state], ["invalidate_user_tokens"])

    def test_what_makes_no_sense_is_refused(self):
        response = self.stubs[0].BlockUser(self.api.BlockUserRequest(), metadata=self.metadata, timeout=DEADLINE)
        self.assertEqual(response.error.code, 107)
        with self.assertRaises(grpc.RpcError) as refused:
            self.stubs[0].BlockUser(self.api.BlockUserRequest(user="eve"), timeout=DEADLINE)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAUTHENTICATED)


if __name__ == "__main__":
    unittest.main()
