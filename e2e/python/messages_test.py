"""A client of MessageService that protoc makes of our `.proto`: `python -m unittest -v messages_test`.

SWITCHBOARD_MESSAGES is the address; SWITCHBOARD_MESSAGES_KEY opens it. For mTLS SWITCHBOARD_MESSAGES_TLS is a folder with ca.pem, client.pem and
client-key.pem. SWITCHBOARD_API_ENDPOINT and SWITCHBOARD_API_KEY are of the server API, by which is published.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from pathlib import Path

import cent
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

ADDRESS = os.environ.get("SWITCHBOARD_MESSAGES", "")
KEY = os.environ.get("SWITCHBOARD_MESSAGES_KEY", "")
TLS = os.environ.get("SWITCHBOARD_MESSAGES_TLS", "")
API = os.environ.get("SWITCHBOARD_API_ENDPOINT", "")
API_KEY = os.environ.get("SWITCHBOARD_API_KEY", "")
SERVICE = "switchboard.messages.MessageService"
DEADLINE = 30


def generated():
    """Lets the modules that protoc makes of our `.proto` be imported."""
    protos = Path(__file__).parent.parent.parent / "proto/protos"
    into = tempfile.mkdtemp()
    files = sorted(str(file.relative_to(protos)) for folder in ("messages", "bus") for file in (protos / "switchboard" / folder).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={into}", f"--grpc_python_out={into}"]
    subprocess.run([*command, *files], check=True)
    sys.path.insert(0, into)


generated()
from switchboard.bus import message_pb2  # noqa: E402
from switchboard.messages import (  # noqa: E402
    conversations_pb2,
    heads_pb2,
    history_pb2,
    place_pb2,
    search_pb2,
    service_pb2_grpc,
    statistics_pb2,
)


def credentials(with_certificate):
    read = lambda name: (Path(TLS) / name).read_bytes()  # noqa: E731
    if with_certificate:
        return grpc.ssl_channel_credentials(read("ca.pem"), read("client-key.pem"), read("client.pem"))
    return grpc.ssl_channel_credentials(read("ca.pem"))


def channel(with_certificate=True):
    return grpc.secure_channel(ADDRESS, credentials(with_certificate)) if TLS else grpc.insecure_channel(ADDRESS)


class Messages(unittest.TestCase):
    def setUp(self):
        self.assertTrue(ADDRESS, "SWITCHBOARD_MESSAGES names no address")
        self.channel = channel()
        self.addCleanup(self.channel.close)
        self.stub = service_pb2_grpc.MessageServiceStub(self.channel)
        self.publisher = cent.Client(API, API_KEY)
        self.addCleanup(self.publisher.close)

    def call(self, method, request, key=KEY):
        metadata = [("authorization", f"apikey {key}")] if key else []
        return getattr(self.stub, method)(request, metadata=metadata, timeout=DEADLINE)

    def refused(self, code, method, request, key=KEY):
        with self.assertRaises(grpc.RpcError) as raised:
            self.call(method, request, key)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        return raised.exception.details()

    def published(self, texts):
        name = f"room:{uuid.uuid4()}"
        places = [self.publisher.publish(cent.PublishRequest(channel=name, data={"text": text})) for text in texts]
        return name, places

    def test_history_as_it_was_published(self):
        name, places = self.published(["one", "two", "three"])
        last = place_pb2.Place(log_epoch=places[-1].epoch, offset=places[-1].offset)
        history = self.call("History", history_pb2.HistoryRequest(channel=name, limit=10, at_least=last))
        self.assertEqual([stored.place.offset for stored in history.messages], [place.offset for place in places])
        said = [json.loads(message_pb2.Message.FromString(stored.message).payload) for stored in history.messages]
        self.assertEqual(said, [{"text": "one"}, {"text": "two"}, {"text": "three"}])
        newest = self.call("History", history_pb2.HistoryRequest(channel=name, limit=1, reverse=True))
        self.assertEqual(newest.messages[0].place, last)
        self.assertTrue(newest.more)
        heads = self.call("Heads", heads_pb2.HeadsRequest(channels=[name, "room:nobody"]))
        self.assertEqual([(head.channel, head.place) for head in heads.heads], [(name, last)])

    def test_search(self):
        word = f"w{uuid.uuid4().hex}"
        name, _ = self.published([f"there is {word} in it"])
        request = search_pb2.SearchRequest(query=word)
        until = time.monotonic() + DEADLINE
        found = self.call("Search", request)
        while not found.matches:
            self.assertLess(time.monotonic(), until, "not found in time")
            time.sleep(0.05)
            found = self.call("Search", request)
        self.assertEqual([match.channel for match in found.matches], [name])
        self.assertIn(f"<mark>{word}</mark>", found.matches[0].snippet)

    def test_statistics_and_what_happens_now(self):
        begun = int(time.time() * 1000)
        metadata = [("authorization", f"apikey {KEY}")] if KEY else []
        ticks = self.stub.WatchStatistics(statistics_pb2.WatchStatisticsRequest(), metadata=metadata, timeout=DEADLINE)
        # From the first on it is watched: nothing that is published now is missed.
        next(ticks)
        name, _ = self.published(["one", "two", "three"])
        told = 0
        for tick in ticks:
            told += sum(rate.messages for rate in tick.rates if rate.namespace == "room")
            if told >= 3:
                break
        ticks.cancel()
        top = self.call("TopChannels", statistics_pb2.TopChannelsRequest(from_ms=begun, namespace="room", limit=1000))
        self.assertEqual([counted.messages for counted in top.channels if counted.channel == name], [3])
        request = statistics_pb2.StatisticsRequest(from_ms=begun, period=statistics_pb2.PERIOD_DAY, namespaces=["*", "room"])
        series = {series.namespace: series for series in self.call("Statistics", request).series}
        self.assertGreaterEqual(series["room"].messages[-1], 3)
        self.assertGreaterEqual(series["*"].messages[-1], series["room"].messages[-1])
        too_many = statistics_pb2.StatisticsRequest(from_ms=10**12, period=statistics_pb2.PERIOD_MINUTE)
        self.assertIn("points", self.refused(grpc.StatusCode.INVALID_ARGUMENT, "Statistics", too_many))
        if KEY:
            self.refused(grpc.StatusCode.UNAUTHENTICATED, "Statistics", request, "a key that nobody has here")

    def test_status_and_members(self):
        name, places = self.published(["one"])
        last = place_pb2.Place(log_epoch=places[0].epoch, offset=places[0].offset)
        self.call("History", history_pb2.HistoryRequest(channel=name, limit=1, at_least=last))
        status = self.call("MessageStatus", conversations_pb2.MessageStatusRequest(channel=name, place=last))
        self.assertEqual((status.sender, status.delivered.count, status.read.count), ("", 0, 0))
        self.assertGreater(status.time_us, 0)
        members = self.call("Members", conversations_pb2.MembersRequest(channel=name))
        self.assertEqual(len(members.members), 0)
        nowhere = place_pb2.Place(log_epoch=last.log_epoch, offset=last.offset + 1)
        self.refused(
            grpc.StatusCode.NOT_FOUND, "MessageStatus", conversations_pb2.MessageStatusRequest(channel=name, place=nowhere)
        )

    def test_what_makes_no_sense_is_refused_in_words(self):
        code = grpc.StatusCode.INVALID_ARGUMENT
        self.assertIn("10000", self.refused(code, "History", history_pb2.HistoryRequest(channel="room:1", limit=10_001)))
        self.refused(code, "History", history_pb2.HistoryRequest(limit=1))
        self.refused(code, "Search", search_pb2.SearchRequest(query='"'))
        large = heads_pb2.HeadsRequest(channels=["x" * 2_000_000])
        self.refused(grpc.StatusCode.OUT_OF_RANGE, "Heads", large)

    def test_only_who_proves_who_it_is_is_let_in(self):
        if KEY:
            for key in ["", "wrong", KEY[1:]]:
                self.refused(grpc.StatusCode.UNAUTHENTICATED, "Heads", heads_pb2.HeadsRequest(), key)
        if TLS:
            with channel(with_certificate=False) as stranger:
                stub = service_pb2_grpc.MessageServiceStub(stranger)
                with self.assertRaises(grpc.RpcError) as raised:
                    stub.Heads(heads_pb2.HeadsRequest(), metadata=[("authorization", f"apikey {KEY}")], timeout=DEADLINE)
                self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_reflection_and_health(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        health = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE)
        self.assertEqual(health.status, health_pb2.HealthCheckResponse.SERVING)
        reflect = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        answers = list(reflect(iter(asked), timeout=DEADLINE))
        self.assertIn(SERVICE, {service.name for service in answers[0].list_services_response.service})
        self.assertTrue(answers[1].file_descriptor_response.file_descriptor_proto)
