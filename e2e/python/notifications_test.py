"""NotificationService, asked by a client that grpcio generates from our .proto files, as a backend would."""

import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[2] / "proto" / "protos"
ADDRESS = os.environ["SWITCHBOARD_NOTIFICATIONS"]
KEY = os.environ["SWITCHBOARD_API_KEY"]
SERVICE = "switchboard.notifications.NotificationService"
DEADLINE = 15


def generated():
    folder = tempfile.mkdtemp()
    file = str(PROTOS / "switchboard" / "notifications" / "service.proto")
    arguments = ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}", file]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc does not take our file")
    sys.path.insert(0, folder)
    from switchboard.notifications import service_pb2, service_pb2_grpc

    return service_pb2, service_pb2_grpc


messages, stubs = generated()


class Notifications(unittest.TestCase):
    def setUp(self):
        self.channel = grpc.insecure_channel(ADDRESS)
        self.stub = stubs.NotificationServiceStub(self.channel)
        self.metadata = [("authorization", f"apikey {KEY}")]
        self.addCleanup(self.channel.close)

    def ask(self, method, request):
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=DEADLINE)

    def refused(self, code, method, request, metadata=None):
        with self.assertRaises(grpc.RpcError) as caught:
            getattr(self.stub, method)(request, metadata=metadata or self.metadata, timeout=DEADLINE)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception.details()

    def becomes(self, notification, status):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            told = self.ask("Get", messages.GetRequest(id=notification))
            if told.status == status:
                return told
            time.sleep(0.02)
        self.fail(f"not {status}: {told}")

    def send(self, **notification):
        given = messages.Notification(user="alice", category="general", **notification)
        return self.ask("Send", messages.SendRequest(notifications=[given])).sent[0]

    def test_health_and_reflection_name_the_service(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        reflect = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(reflect(iter([asked]), metadata=self.metadata, timeout=DEADLINE))
        self.assertIn(SERVICE, [service.name for service in listed.list_services_response.service])

    def test_without_the_key_nothing_is_told(self):
        wrong = [("authorization", "apikey wrong-key-of-nobody")]
        self.refused(grpc.StatusCode.UNAUTHENTICATED, "Inbox", messages.InboxRequest(user="alice"), wrong)

    def test_what_makes_no_sense_is_refused_whole(self):
        fine = messages.Notification(user="alice", category="general", title="fine", ways=["email"], idempotency_key="whole")
        bad = messages.Notification(user="alice", category="nonsense", title="bad")
        request = messages.SendRequest(notifications=[fine, bad])
        words = self.refused(grpc.StatusCode.INVALID_ARGUMENT, "Send", request)
        self.assertIn("notification 1", words)
        # Nothing of it was kept: its key is free.
        sent = self.send(title="fine", ways=["email"], idempotency_key="whole")
        self.assertFalse(sent.duplicate)
        self.refused(grpc.StatusCode.NOT_FOUND, "Get", messages.GetRequest(id="00000000-0000-7000-8000-000000000000"))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "Get", messages.GetRequest(id="none"))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "Send", messages.SendRequest())

    def test_one_key_is_one_notification(self):
        first = self.send(title="once", ways=["in_app"], idempotency_key="once")
        again = self.send(title="once", ways=["in_app"], idempotency_key="once")
        self.assertEqual((again.id, again.duplicate), (first.id, True))

    def test_a_notification_is_shown_seen_and_read(self):
        data = json.dumps({"order": 7}).encode()
        sent = self.send(title="Shipped", body="It is on its way", link="https://example.org/7", data=data, ways=["in_app"])
        told = self.becomes(sent.id, "sent")
        self.assertEqual([delivery.way for delivery in told.deliveries], ["in_app"])
        self.assertEqual(told.deliveries[0].attempts[0].result, "accepted")
        sums = self.ask("Statistics", messages.StatisticsRequest()).counts
        shown = [sum.count for sum in sums if (sum.way, sum.provider, sum.result) == ("in_app", "in_app", "accepted")]
        self.assertGreaterEqual(shown[0], 1)
        inbox = self.ask("Inbox", messages.InboxRequest(user="alice", limit=1))
        self.assertEqual(inbox.entries[0].id, sent.id)
        self.assertEqual(json.loads(inbox.entries[0].data), {"order": 7})
        self.assertGreaterEqual(inbox.unseen, 1)
        self.ask("MarkInbox", messages.MarkInboxRequest(user="alice", ids=[sent.id], read=True))
        self.becomes(sent.id, "read")

    def test_wishes_devices_and_templates_are_kept(self):
        wishes = {"time_zone": "Europe/Berlin", "quiet_hours": [{"from": "22:00", "to": "07:00"}], "categories": {"general": {"sms": False}}}
        self.ask("SetPreferences", messages.SetPreferencesRequest(user="bob", preferences=json.dumps(wishes).encode()))
        self.ask("Mute", messages.MuteRequest(user="bob", conversation="dm:#alice,bob"))
        kept = self.ask("GetPreferences", messages.GetPreferencesRequest(user="bob"))
        self.assertEqual(json.loads(kept.preferences)["time_zone"], "Europe/Berlin")
        self.assertEqual([muted.conversation for muted in kept.muted], ["dm:#alice,bob"])
        bad = json.dumps({"time_zone": "Europe/Atlantis"}).encode()
        request = messages.SetPreferencesRequest(user="bob", preferences=bad)
        self.assertIn("Atlantis", self.refused(grpc.StatusCode.INVALID_ARGUMENT, "SetPreferences", request))

        phone = messages.Device(id="phone", provider="sms", address="+491701234567")
        self.ask("RegisterDevice", messages.RegisterDeviceRequest(user="bob", device=phone))
        devices = self.ask("ListDevices", messages.ListDevicesRequest(user="bob")).devices
        self.assertEqual([(device.id, device.provider) for device in devices], [("phone", "sms")])
        self.assertNotIn("1701234", str(devices))

        template = {"name": "bill", "language": "", "title": "{{ amount }} are due", "body": "Thank you", "required": ["amount"]}
        self.ask("PutTemplate", messages.PutTemplateRequest(template=json.dumps(template).encode()))
        listed = json.loads(self.ask("ListTemplates", messages.ListTemplatesRequest()).templates)
        self.assertIn("bill", [one["name"] for one in listed])
        wrong = dict(template, title="{{ amount")
        request = messages.PutTemplateRequest(template=json.dumps(wrong).encode())
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "PutTemplate", request)
        self.ask("ForgetUser", messages.ForgetUserRequest(user="bob"))
        self.assertEqual(len(self.ask("ListDevices", messages.ListDevicesRequest(user="bob")).devices), 0)

    def test_dead_letters_are_found_tried_again_and_dropped(self):
        phone = messages.Device(id="app", provider="fcm", address="a-token")
        self.ask("RegisterDevice", messages.RegisterDeviceRequest(user="carol", device=phone))
        given = messages.Notification(user="carol", category="general", title="dead", ways=["push"])
        sent = self.ask("Send", messages.SendRequest(notifications=[given])).sent[0]
        self.becomes(sent.id, "failed")
        letters = self.ask("DeadLetters", messages.DeadLettersRequest(user="carol")).dead_letters
        self.assertEqual([letter.notification for letter in letters], [sent.id])
        ids = [letters[0].delivery.id]
        self.assertEqual(self.ask("RetryDeadLetters", messages.RetryDeadLettersRequest(ids=ids)).retried, 1)
        self.becomes(sent.id, "failed")
        self.assertEqual(self.ask("DropDeadLetters", messages.DropDeadLettersRequest(ids=ids)).dropped, 1)
        self.becomes(sent.id, "cancelled")


if __name__ == "__main__":
    unittest.main()
