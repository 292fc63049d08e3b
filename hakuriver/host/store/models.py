"""The tables. Their shape is made by the migrations; these classes name the columns."""

from __future__ import annotations

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    DatabaseProxy,
    FloatField,
    IntegerField,
    Model,
    TextField,
)

database = DatabaseProxy()


class _Table(Model):
    """What all tables share: the database that `Store` opens."""

    class Meta:
        database = database


class Meta(_Table):
    """Facts about the database itself, such as the cluster's id."""

    key = TextField(primary_key=True)
    value = TextField()


class Batch(_Table):
    """What the tasks of one submission share: of the one that began a batch, or has joined one.

    `spec` is MessagePack; the script lies apart, so that lists do not read it. A submission that
    bore a key is kept with it, with the digest of what was asked, and with the answer.
    """

    id = BigIntegerField(primary_key=True)
    spec = BlobField()
    script = BlobField(null=True)
    request_key = TextField(null=True)
    request_digest = BlobField(null=True)
    reply = BlobField(null=True)


class Task(_Table):
    """One task; `cpus` is a JSON list, `usage` a JSON object.

    `batch_id` is the batch in which users see it, `submission_id` its own where it has joined that.
    """

    id = BigIntegerField(primary_key=True)
    batch_id = BigIntegerField(index=True)
    batch_index = IntegerField()
    batch_size = IntegerField()
    rev = BigIntegerField(index=True)
    owner = TextField()
    name = TextField()
    status = TextField(index=True)
    node = TextField(null=True)
    numa_node = IntegerField(null=True)
    cpus = TextField()
    reason = TextField(null=True)
    exit_code = IntegerField(null=True)
    kill_requested = BooleanField(default=False)
    submitted_at = FloatField()
    started_at = FloatField(null=True)
    completed_at = FloatField(null=True)
    stdout_path = TextField(null=True)
    stderr_path = TextField(null=True)
    unit = TextField(null=True)
    targeted = BooleanField(default=True)
    retry_of = BigIntegerField(null=True)
    usage = TextField(null=True)
    logs_removed = BooleanField(default=False)
    submission_id = BigIntegerField(null=True)


class Node(_Table):
    """One machine; `info` is JSON."""

    name = TextField(primary_key=True)
    rev = BigIntegerField(index=True)
    uid = TextField()
    info = TextField()
    last_heartbeat = FloatField(null=True)
    draining = BooleanField(default=False)
