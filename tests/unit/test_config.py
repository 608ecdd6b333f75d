"""keepstream.yaml: what it may say, what is said of a wrong one, and that it keeps its secrets."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from connectors.postgres.limits.limit import Limit
from pipeline.app import policies
from pipeline.config import Config, Initial, Keyless, load_config, parse_config, reading
from schemas.ddl.kinds import DEFAULTS, Kind, Policy
from schemas.errors import ConfigError

SMALLEST = """
name: crm
source: postgresql://keepstream@crm-db/crm
log: kafka://broker1:9092,broker2:9092
replicas:
  standby: postgresql://keepstream@standby/crm
"""

LONG = """
name: crm
source:
  url: "host=a,b port=5432,5433 dbname=crm user=keepstream target_session_attrs=read-write"
  publication: crm_out
  tables: {include: [crm.*, public.orders], exclude: [crm.audit_*]}
  keyless: full
log:
  url: kafka://broker1:9092
  retain: 2d12h
  replication: 3
  client:
    security.protocol: SASL_SSL
    sasl.password: 0815
replicas:
  standby: {url: service=standby, initial: data, delay: 5m}
  reports: {url: "dbname=reports", initial: none}
tools: {pg_bin: /usr/lib/postgresql/18/bin}
"""


def parse(text: str, **environment: str) -> Config:
    return parse_config(text, name="keepstream.yaml", environment=environment)


def refused(text: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environment)
    assert caught.value.exit_code == 3
    return caught.value


def test_the_smallest_file_takes_every_default() -> None:
    config = parse(SMALLEST)
    assert config.source.url.reveal() == "postgresql://keepstream@crm-db/crm"
    assert config.source.keyless is Keyless.REFUSE
    assert config.source.tables.selects("any", "table")
    assert config.log.url == "kafka://broker1:9092,broker2:9092"
    assert config.log.retain == timedelta(days=7)
    assert config.log.replication is None
    assert config.replicas["standby"].initial is Initial.COPY
    assert config.replicas["standby"].delay == timedelta(0)
    assert (config.slot_name, config.publication_name) == ("keepstream_crm", "keepstream_crm")


def test_a_replica_copies_what_awaits_its_copy_unless_an_operator_or_a_delay_keeps_it() -> None:
    replica = "replicas: {{standby: {{url: service=standby{}}}}}"
    ways = {"": True, ", copy_awaited: manual": False, ", delay: 5m": False, ", copy_awaited: auto": True}
    for more, expected in ways.items():
        config = parse(SMALLEST.partition("replicas:")[0] + replica.format(more))
        assert config.replicas["standby"].copies_awaited is expected, more


def test_every_long_form_is_read() -> None:
    config = parse(LONG)
    assert config.source.keyless is Keyless.FULL
    assert config.publication_name == "crm_out"
    assert config.source.tables.selects("public", "orders")
    assert config.source.tables.selects("crm", "lead")
    assert not config.source.tables.selects("crm", "audit_2026")
    assert not config.source.tables.selects("public", "invoices")
    assert config.log.retain == timedelta(days=2, hours=12)
    assert config.log.replication == 3
    assert config.log.client_settings()["security.protocol"] == "SASL_SSL"
    assert config.replicas["standby"].delay == timedelta(minutes=5)
    assert config.replicas["standby"].initial is Initial.DATA
    assert config.replicas["reports"].initial is Initial.NONE
    assert config.tools.pg_bin == Path("/usr/lib/postgresql/18/bin")


@pytest.mark.parametrize(
    "conninfo",
    [
        "service=crm",
        "postgresql:///crm?host=/run/postgresql&sslmode=verify-full",
        "postgres://u:p%40ss@h1:5432,h2:5433/crm?target_session_attrs=read-write",
        "host=db user='a b' password='it''s' sslrootcert=/etc/ca.pem",
    ],
)
def test_a_connection_string_arrives_untouched(conninfo: str) -> None:
    text = f"name: a\nlog: file:///var/lib/keepstream\nsource: {conninfo!r}\n".replace("''s'", "")
    if "it''s" in conninfo:
        conninfo = conninfo.replace("'it''s'", "x")
        text = f'name: a\nlog: file:///var/lib/keepstream\nsource: "{conninfo}"\n'
    assert parse(text).source.url.reveal() == conninfo


def test_variables_and_files_are_expanded_and_a_doubled_dollar_is_one(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3$cret\n")
    config = parse(
        f"""
        name: ${{NAME}}
        source: "host=db user=u password=${{file:{tmp_path}/secret}} dbname=$$x"
        log: file:///var/${{NAME}}
        """,
        NAME="crm",
    )
    assert config.name == "crm"
    assert config.source.url.reveal() == "host=db user=u password=s3$cret dbname=$x"
    assert config.log.url == "file:///var/crm"


def test_what_a_variable_holds_is_not_expanded_again() -> None:
    config = parse("name: a\nlog: file:///x\nsource: dbname=${A}", A="${B}$$")
    assert config.source.url.reveal() == "dbname=${B}$$"


def test_an_unset_variable_is_named_with_its_line() -> None:
    error = refused("name: a\nlog: file:///x\nsource: dbname=${CRM_DB}\n")
    assert error.message == "keepstream.yaml:3:9: environment variable `CRM_DB` is not set"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${file:/no/such/file}", "file `/no/such/file` cannot be read: No such file or directory"),
        ("a${B", "`${` without its `}`; a plain dollar sign is written `$$`"),
        ("${not a name}", "`${not a name}` is neither ${VARIABLE} nor ${file:/path}"),
    ],
)
def test_a_reference_that_cannot_be_expanded_says_why(value: str, said: str) -> None:
    assert refused(f"name: a\nlog: file:///x\nsource: '{value}'\n").message == f"keepstream.yaml:3:9: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sorce: dbname=x", "4:1: unknown key `sorce`; did you mean `source`?"),
        ("keyless: full", "4:1: unknown key `keyless`; it belongs under `source`"),
        ("path: /x", "4:1: unknown key `path`; known here: name, source, log, replicas, schema, tools"),
        (
            "replicas:\n  a: {url: dbname=y, inital: copy}",
            "5:22: unknown key `replicas.a.inital`; did you mean `initial`?",
        ),
        ("name: b", "4:1: `name` is written twice"),
        ("replicas: {a: {delay: 5m}}", "4:15: `replicas.a.url` is missing"),
        (
            "replicas: {a: {url: dbname=x, delay: 5}}",
            "4:38: `replicas.a.delay` must be a duration with its unit: 500ms, 30s, 5m, 2h, 7d, 1w",
        ),
        (
            "replicas: {Big: dbname=x}",
            "4:11: `replicas` replica name 'Big' must match [a-z][a-z0-9_-]{0,30}",
        ),
        (
            "replicas: {a: {url: dbname=x, initial: full}}",
            "4:40: `replicas.a.initial` should be 'copy', 'data' or 'none'",
        ),
    ],
)
def test_a_wrong_key_or_value_is_told_with_line_and_remedy(text: str, said: str) -> None:
    error = refused(f"name: a\nlog: file:///x\nsource: dbname=x\n{text}\n")
    assert error.message == f"keepstream.yaml:{said}"
    assert error.code == "config-invalid"


@pytest.mark.parametrize("name", ["Crm", "1crm", "c" * 32, "c-rm", "''", "no"])
def test_a_name_that_cannot_name_slot_and_topics_is_refused(name: str) -> None:
    assert "`name`" in refused(SMALLEST.replace("name: crm", f"name: {name}")).message


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://broker",
        "kafka://a:1,b",
        "kafka://u:p@a:1",
        "file://relative",
        "file:///",
        "s3://x",
        "/tmp",
    ],
)
def test_a_log_url_that_names_no_log_is_refused(url: str) -> None:
    assert "`log.url` must" in refused(SMALLEST.replace("kafka://broker1:9092,broker2:9092", url)).message


def test_a_directory_log_takes_no_kafka_settings() -> None:
    error = refused("name: a\nsource: dbname=x\nlog: {url: file:///x, replication: 3}\n")
    assert "`client` and `replication` are for a kafka:// log" in error.message


def test_a_text_that_yaml_reads_as_something_else_is_told() -> None:
    error = refused(SMALLEST.replace("name: crm", "name: on"))
    assert error.message == "keepstream.yaml:2:7: `name` must be a text: write it between double quotes"


@pytest.mark.parametrize("key", ["include", "exclude"])
@pytest.mark.parametrize("value", ['"public.*"', "", "{public: x}"])
def test_what_is_to_be_a_list_and_is_none_is_told_with_what_makes_it_one(key: str, value: str) -> None:
    error = refused(f"name: a\nsource:\n  url: dbname=x\n  tables:\n    {key}: {value}\nlog: file:///x\n")
    seen = f"`source.tables.{key}` must be a list: write its values between [ and ]"
    assert error.message.endswith(f": {seen}")


def limits(text: str) -> str:
    return f"name: crm\nsource: {{url: service=crm, tables: {{limits: {{{text}}}}}}}\nlog: file:///log"


def test_limits_are_of_one_table_each_by_the_name_that_postgresql_stores() -> None:
    read = parse(limits('public.a: {columns: [id, "B"]}, \'"odd.one".t\': {where: "x = \') -- \' or (y)"}'))
    assert read.source.tables.limits_by_name == {
        ("public", "a"): Limit(("id", "B")),
        ("odd.one", "t"): Limit(None, "x = ') -- ' or (y)"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("public.*: {columns: [id]}", "must name one table"),
        (
            'public.a: {columns: [id]}, \'"public"."a"\': {columns: [id]}',
            "names the same table as `public.a`",
        ),
        ("'public.a\"b': {columns: [id]}", 'limits.public.a"b` must be a pattern schema.table'),
        ("public.a: {}", "needs `columns`, `where` or both"),
        ("public.a: {columns: []}", "limits.public.a.columns"),
        ("public.a: {columns: [id, id]}", "names a column twice"),
        ("public.a: {where: ' '}", "must be an SQL expression"),
        ("public.a: {where: 'id > 0) with (publish = (1'}", "its parentheses do not match"),
        ("public.a: {where: '(id > 0'}", "its parentheses do not match"),
        ("public.a: {where: 'id > 0; drop table a'}", "must be one SQL expression, without"),
        ("public.a: {where: 'id > 0 -- all'}", "must be one SQL expression, without"),
        ("public.a: {where: 'id > 0 /* all'}", "must be one SQL expression, without"),
        ('public.a: {where: "n = \'x"}', "must be one SQL expression, without"),
        ("public.a: {where: \"n = E'x\\\\'' or (n\"}", "must be one SQL expression, without"),
        ("public.a: {where: 'n = $$$$x'}", "must be one SQL expression, without"),
    ],
)
def test_a_limit_that_is_none_or_ends_its_statement_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(limits(text))


def test_all_errors_of_a_file_are_listed_in_its_order() -> None:
    error = refused("nam: a\nsource: ${UNSET}\nlog: nowhere\nreplicas: {x: {ulr: dbname=x}}\n")
    assert error.message.splitlines()[0] == "6 errors"
    lines = [line.split(":")[1] for line in error.message.splitlines()[1:]]
    assert lines == ["1", "1", "2", "3", "4", "4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\n  log: b", "keepstream.yaml:2:6: broken YAML: mapping values are not allowed here"),
        (
            "source: {url: ${PGURL}}",
            "keepstream.yaml:1:16: broken YAML: expected ',' or '}', but got '{' "
            "while parsing a flow mapping",
        ),
        (
            "\tname: a",
            "keepstream.yaml:1:1: broken YAML: found character '\\t' that cannot start any token "
            "while scanning for the next token",
        ),
        ('name: "a\x07b"', "keepstream.yaml: broken YAML: special characters are not allowed"),
    ],
)
def test_broken_yaml_is_told_with_line_and_column_and_what_was_expected(text: str, said: str) -> None:
    error = refused(text)
    assert error.message == said
    assert error.code == "config-yaml"


@pytest.mark.parametrize("text", ["", "# nothing", "- a\n- b", "just text"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert "expected a mapping" in refused(text).message


@pytest.mark.parametrize(
    ("value", "kind"),
    [("2020-99-99", "timestamp"), ("0b_", "int"), ("!!float abc", "float"), ("!!bool abc", "bool")],
)
def test_a_value_that_does_not_fit_its_type_is_told_once_with_its_place(value: str, kind: str) -> None:
    error = refused(f"name: {value}\nsource: dbname=x\nlog: file:///x\n")
    place = "keepstream.yaml:1:7"
    assert error.message == (
        f"{place}: is no {kind}, although it looks like one: write it between double quotes"
    )


def test_a_key_that_is_no_text_and_a_part_that_is_empty_are_told() -> None:
    text = "? [a]\n: b\nname: a\nsource:\nlog: file:///x\n"
    message = refused(text).message
    assert "keepstream.yaml:1:3: a key must be a plain text" in message
    assert "`source` is empty or no mapping" in message


def test_yaml_cannot_make_python_objects() -> None:
    assert refused("name: !!python/object/apply:os.system ['true']\n").exit_code == 3


def test_an_alias_that_grows_without_bound_is_refused() -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "aliases" in refused("\n".join(rows)).message


def test_no_password_is_shown_by_any_rendering_of_a_configuration() -> None:
    config = parse(
        """
        name: a
        source: postgresql://u:hunter2@db/crm?sslpassword=hunter2
        log: {url: "kafka://b:9092", client: {sasl.password: hunter2, ssl.key.password: hunter2}}
        replicas: {x: "host=db password = 'hunter2 \\\\' x' sslpassword=hunter2"}
        """
    )
    shown = [
        repr(config),
        str(config),
        str(config.model_dump()),
        config.model_dump_json(),
        f"{config.source.url}",
    ]
    shown += [str(config.log.client), repr(config.replicas["x"].url)]
    assert not [text for text in shown if "hunter2" in text]
    assert str(config.source.url) == "postgresql://u:***@db/crm?sslpassword=***"
    assert "hunter2" in config.source.url.reveal()


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql//u:hunter2@db",
        "password=hunter2 y",
        "password=hun ter2=y",
        "postgresql://u:hun/x?ter2=y@h/crm",
        "postgresql://u:hun@ter2@db/x",
        "postgresql://u:hun/ter2@h/x",
        "postgresql://u:hun@ter2/hun@ter2@127.0.0.1:5432/crm",
        "postgresql://u:hun@et/ter2@127.0.0.1:5432/crm",
    ],
)
def test_a_connection_string_that_libpq_cannot_read_is_refused_without_being_quoted(conninfo: str) -> None:
    error = refused(f"name: a\nlog: file:///x\nsource: {conninfo}\n")
    assert error.message.startswith("keepstream.yaml:3:9: `source.url` cannot be read by libpq")
    assert "ter2" not in error.message + error.hint


@pytest.mark.parametrize(
    ("conninfo", "said"),
    [
        ("passwrod=hunter2 host=h", "an unknown keyword `passwrod`; did you mean `password`?"),
        ("host=h database=crm password=hunter2", "an unknown keyword `database`"),
        (
            "postgresql://u:hunter2@h/crm?sslmod=require",
            "an unknown keyword `sslmod`; did you mean `sslmode`?",
        ),
        ("host=h password=hunter2 sslmod=require", "an unknown keyword; did you mean `sslmode`?"),
        ("host=h password=hun passw0ter2=x", "an unknown keyword; did you mean `password`?"),
    ],
)
def test_a_keyword_that_libpq_does_not_know_is_named_with_the_nearest_unless_it_may_be_of_a_password(
    conninfo: str, said: str
) -> None:
    error = refused(f'name: a\nlog: file:///x\nsource: "{conninfo}"\n')
    assert error.message == f"keepstream.yaml:3:9: `source.url` has {said}"
    assert "ter2" not in error.message + error.hint


def test_a_configuration_can_be_copied_to_another_process() -> None:
    config = parse(LONG)
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config).source.url.reveal() == config.source.url.reveal()


def test_a_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "keepstream.yaml")
    assert caught.value.code == "config-missing"
    assert "keepstream init" in caught.value.hint


def test_a_file_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keepstream.yaml"
    path.write_text(SMALLEST)
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert load_config(path).path == path
    assert not caplog.records
    path.chmod(0o640)
    load_config(path)
    assert [record.getMessage() for record in caplog.records] == ["configuration is readable by others"]


def test_a_pipe_is_read_to_its_end_however_slow_its_writer_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIPE_PATIENCE_S", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    writer = os.open(path, os.O_RDWR)

    def write() -> None:
        time.sleep(0.1)
        for part in ("name: crm\n", SMALLEST.removeprefix("\nname: crm\n")):
            os.write(writer, part.encode())
            time.sleep(0.1)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert load_config(path).name == "crm"
    thread.join()


def test_what_would_never_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_PATIENCE_S", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for name, seen in (
        (path, f"nobody writes to the pipe {path}"),
        (Path("/dev/zero"), "/dev/zero is neither a file nor a pipe"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        assert (caught.value.code, caught.value.message) == ("config-unreadable", seen)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keepstream.yaml"
    path.write_bytes("name: crm # für".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(path)


POLICIES = """
schema: {policies: {drop_column: apply, alter_type: ignore}}
replicas:
  standby: {url: service=standby, schema: {policies: {alter_type: apply}}}
  reports: service=reports
"""


def test_a_replicas_own_policy_for_schema_changes_counts_more() -> None:
    config = parse(SMALLEST.partition("replicas:")[0] + POLICIES)
    standby, reports = policies(config, "standby"), policies(config, "reports")
    assert dict(standby) | {Kind.ALTER_TYPE: Policy.IGNORE} == reports
    assert standby[Kind.ALTER_TYPE] is Policy.APPLY
    assert standby == dict(DEFAULTS) | {Kind.DROP_COLUMN: Policy.APPLY, Kind.ALTER_TYPE: Policy.APPLY}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{drop_colum: apply}", "has no kind of schema change `drop_colum`; did you mean `drop_column`?"),
        ("{zzz: apply}", "has no kind of schema change `zzz`; docs/schema-changes.md lists the kinds"),
        ("{index: later}", "says `later` of index; it is apply, pause or ignore"),
        ("{other: apply}", "says apply of other, which no replica can follow; it is pause or ignore"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(given: str, said: str) -> None:
    error = refused(f"{SMALLEST}schema: {{policies: {given}}}\n")
    assert error.message == f"keepstream.yaml:7:20: `schema.policies` {said}"


def test_an_unknown_key_under_schema_is_named() -> None:
    assert (
        "unknown key `schema.policy`; did you mean `policies`?"
        in refused(f"{SMALLEST}schema: {{policy: 1}}\n").message
    )
