"""Unchanged libraries that speak the server API, over HTTP and gRPC: `python -m unittest -v server_api_test`.

SWITCHBOARD_API_ENDPOINTS names the server APIs, separated by commas; SWITCHBOARD_API_KEY opens them. The gRPC client is generated
from the repository's own `.proto`.
"""

import os
import subprocess
import sys
import tempfile
import unittest
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import cent
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

APIS = [url for url in os.environ.get("SWITCHBOARD_API_ENDPOINTS", "").split(",") if url]
KEY = os.environ.get("SWITCHBOARD_API_KEY", "")
SERVICE = "centrifugal.centrifugo.api.CentrifugoApi"


def generated():
    """The modules that protoc makes of our `.proto`."""
    protos = Path(__file__).parent.parent.parent / "proto/protos/centrifugal/centrifugo/api"
    into = tempfile.mkdtemp()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={into}", f"--grpc_python_out={into}"]
    subprocess.run([*command, "api.proto"], check=True)
    sys.path.insert(0, into)
    import api_pb2
    import api_pb2_grpc

    return api_pb2, api_pb2_grpc


def fresh_channel():
    return f"room:{uuid.uuid4()}"


class Http(unittest.TestCase):
    def setUp(self):
        self.assertTrue(APIS, "SWITCHBOARD_API_ENDPOINTS names no server API")
        self.client = cent.Client(APIS[0], KEY)
        self.addCleanup(self.client.close)

    def test_publish_and_history(self):
        channel = fresh_channel()
        first = self.client.publish(cent.PublishRequest(channel=channel, data={"n": 1}))
        second = self.client.publish(cent.PublishRequest(channel=channel, data=None, b64data="eyJuIjoyfQ==", tags={"lang": "en"}))
        self.assertGreater(second.offset, first.offset)
        history = self.client.history(cent.HistoryRequest(channel=channel, limit=10, reverse=True))
        self.assertEqual([publication.data for publication in history.publications], [{"n": 2}, {"n": 1}])
        self.assertEqual(history.publications[0].tags["lang"], "en")
        self.assertEqual((history.offset, history.epoch), (second.offset, second.epoch))
        since = cent.StreamPosition(offset=first.offset, epoch=first.epoch)
        rest = self.client.history(cent.HistoryRequest(channel=channel, limit=10, since=since))
        self.assertEqual([publication.data for publication in rest.publications], [{"n": 2}])

    def test_history_remove_hides_what_was_said_and_may_be_repeated(self):
        channel = fresh_channel()
        for number in range(3):
            self.client.publish(cent.PublishRequest(channel=channel, data=number))
        for _ in range(2):
            self.client.history_remove(cent.HistoryRemoveRequest(channel=channel))
            self.assertEqual(self.client.history(cent.HistoryRequest(channel=channel, limit=10)).publications, [])
        self.client.publish(cent.PublishRequest(channel=channel, data="next"))
        history = self.client.history(cent.HistoryRequest(channel=channel, limit=10))
        self.assertEqual([publication.data for publication in history.publications], ["next"])

    def test_bytes_that_are_not_json_come_back_as_base64(self):
        channel = f"raw:{uuid.uuid4()}"
        self.client.publish(cent.PublishRequest(channel=channel, data=None, b64data="/wA="))
        history = self.client.history(cent.HistoryRequest(channel=channel, limit=1))
        self.assertIsNone(history.publications[0].data)
        self.assertEqual(history.publications[0].b64data, "/wA=")

    def test_broadcast_answers_for_each_channel(self):
        request = cent.BroadcastRequest(channels=[fresh_channel(), "none:1"], data=1)
        responses = self.client.broadcast(request).responses
        self.assertGreater(responses[0].result.offset, 0)
        self.assertEqual(responses[1].error.code, 102)

    def test_batch(self):
        channel = fresh_channel()
        requests = [cent.PublishRequest(channel=channel, data=number) for number in range(5)]
        replies = self.client.batch(cent.BatchRequest(requests=requests)).replies
        offsets = [reply.offset for reply in replies]
        self.assertEqual(offsets, sorted(set(offsets)))

    def test_info_names_every_gateway(self):
        nodes = self.client.info(cent.InfoRequest()).nodes
        self.assertEqual(len(nodes), len(APIS))
        self.assertEqual(len({node.uid for node in nodes}), len(APIS))

    def test_calls_about_nobody_succeed(self):
        user = str(uuid.uuid4())
        self.client.disconnect(cent.DisconnectRequest(user=user))
        self.client.refresh(cent.RefreshRequest(user=user, expire_at=4_000_000_000))
        self.client.subscribe(cent.SubscribeRequest(user=user, channel=fresh_channel()))
        self.client.unsubscribe(cent.UnsubscribeRequest(user=user, channel=fresh_channel()))
        self.assertEqual(self.client.channels(cent.ChannelsRequest(pattern="none*")).channels, {})

    def test_errors_have_their_code(self):
        calls = [
            (102, lambda: self.client.publish(cent.PublishRequest(channel="none:1", data=1))),
            (106, lambda: self.client.publish(cent.PublishRequest(channel=fresh_channel(), data="x" * 100_000))),
            (108, lambda: self.client.presence(cent.PresenceRequest(channel=fresh_channel()))),
            (102, lambda: self.client.history_remove(cent.HistoryRemoveRequest(channel="none:1"))),
        ]
        for code, call in calls:
            with self.assertRaises(cent.CentApiResponseError) as raised:
                call()
            self.assertEqual(raised.exception.code, code)

    def test_a_wrong_key_is_refused(self):
        wrong = cent.Client(APIS[0], KEY + "x")
        self.addCleanup(wrong.close)
        with self.assertRaises(cent.CentUnauthorizedError):
            wrong.info(cent.InfoRequest())


class Grpc(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.messages, cls.services = generated()
        cls.channel = grpc.insecure_channel(urlsplit(APIS[0]).netloc, options=[("grpc.enable_http_proxy", 0)])
        cls.stub = cls.services.CentrifugoApiStub(cls.channel)
        cls.metadata = [("authorization", f"apikey {KEY}")]

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()

    def call(self, method, request, metadata=None):
        metadata = self.metadata if metadata is None else metadata
        return getattr(self.stub, method)(request, metadata=metadata, timeout=10)

    def test_publish_and_history(self):
        channel = fresh_channel()
        request = self.messages.PublishRequest(channel=channel, data=b'{"n":1}', idempotency_key="one", priority="low")
        first = self.call("Publish", request)
        self.assertEqual(first.error.code, 0)
        self.assertGreater(first.result.offset, 0)
        again = self.call("Publish", request).result
        self.assertEqual((again.offset, again.id, again.duplicate), (first.result.offset, first.result.id, True))
        self.call("Publish", self.messages.PublishRequest(channel=channel, data=b"2"))
        history = self.call("History", self.messages.HistoryRequest(channel=channel, limit=-1)).result
        self.assertEqual([publication.data for publication in history.publications], [b'{"n":1}', b"2"])
        self.assertEqual(self.call("HistoryRemove", self.messages.HistoryRemoveRequest(channel=channel)).error.code, 0)
        history = self.call("History", self.messages.HistoryRequest(channel=channel, limit=-1)).result
        self.assertEqual(list(history.publications), [])
        self.assertEqual(history.epoch, first.result.epoch)

    def test_bytes_stay_bytes(self):
        channel = f"raw:{uuid.uuid4()}"
        self.assertEqual(self.call("Publish", self.messages.PublishRequest(channel=channel, data=b"\xff\x00")).error.code, 0)
        history = self.call("History", self.messages.HistoryRequest(channel=channel, limit=1)).result
        self.assertEqual(history.publications[0].data, b"\xff\x00")

    def test_errors_are_in_the_response(self):
        request = self.messages.PublishRequest(channel="none:1", data=b"1")
        self.assertEqual(self.call("Publish", request).error.code, 102)
        self.assertEqual(self.call("RPC", self.messages.RPCRequest(method="any")).error.code, 104)
        self.assertEqual(self.call("Presence", self.messages.PresenceRequest(channel=fresh_channel())).error.code, 108)

    def test_batch_and_what_is_ours_alone(self):
        command = self.messages.Command(info=self.messages.InfoRequest())
        batch = self.call("Batch", self.messages.BatchRequest(commands=[command, self.messages.Command()], parallel=True))
        self.assertEqual(len(batch.replies[0].info.nodes), len(APIS))
        self.assertEqual(batch.replies[1].error.code, 104)
        told = self.messages.SystemMessageRequest(user=str(uuid.uuid4()), maintenance=self.messages.Maintenance(at=1))
        answer = self.call("SystemMessage", told)
        self.assertEqual((answer.error.code, answer.result.clients), (0, 0))

    def test_without_the_key_nothing(self):
        for metadata in [[], [("authorization", "apikey wrong")]]:
            with self.assertRaises(grpc.RpcError) as raised:
                self.call("Info", self.messages.InfoRequest(), metadata)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAUTHENTICATED)

    def test_a_hostile_size_is_refused(self):
        request = self.messages.PublishRequest(channel=fresh_channel(), data=b"x" * (5 * 1024 * 1024))
        with self.assertRaises(grpc.RpcError) as raised:
            self.call("Publish", request)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.OUT_OF_RANGE)

    def test_reflection_and_health(self):
        health = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        self.assertEqual(health.status, health_pb2.HealthCheckResponse.SERVING)
        reflect = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
        services = {service.name for service in next(answers).list_services_response.service}
        self.assertIn(SERVICE, services)
        self.assertIn("grpc.health.v1.Health", services)
