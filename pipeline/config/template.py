"""The text of a new keepstream.yaml: what was chosen, and comments on what else could be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from pipeline.config.model import Keyless


@dataclass(frozen=True, slots=True)
class Choices:
    """What `init` was told or answered. Texts may hold ${VAR} and ${file:…}."""

    name: str
    source: str
    log: str
    replicas: Mapping[str, str] = field(default_factory=dict)
    keyless: Keyless = Keyless.REFUSE


_TEMPLATE = """\
# Keepstream's configuration. Every key is described in docs/configuration.md.
# ${{VAR}} and ${{file:/path}} are replaced in every text; $$ is a plain dollar sign.
# This file may hold passwords: keep it readable for its owner only (chmod 600).

# Names slot, publication, topics and progress row. It cannot be changed later.
name: {name}

source:
  # Any libpq connection string: URI, key=value pairs, service=…, several hosts.
  # `keepstream init --grants --for source` prints the SQL of its role.
  url: {source}
  # A table without primary key or other replica identity:
  #   refuse   end with an error that names it (the default)
  #   full     set REPLICA IDENTITY FULL on it; needs the rights of its owner
  #   exclude  leave it out, and say so in status and verify
  keyless: {keyless}
  # tables:
  #   include: ["*.*"]              # schema.table, with * for any run of characters
  #   exclude: ["public.audit_*"]
  #   limits:                       # some columns or rows of a table
  #     public.customer: {{columns: [id, name], where: "id > 0"}}
  # publication: keepstream_NAME
  # partitions: root                # rows of partitions come under the name of the whole, docs/partitions.md
  # failover: true                  # the slot survives on standbys (PostgreSQL 17+), docs/operating.md

log:
  # kafka://broker1:9092,broker2:9092, or a folder on this machine: file:///var/lib/keepstream
  url: {log}
  # retain: 7d                      # how long a stopped replica can still catch up
  # replication: 3                  # copies of the topic (Kafka)
  # client:                         # Kafka client settings by their Java names
  #   security.protocol: SASL_SSL

{replicas}
# What a replica does with schema changes that the source's event triggers tell of: apply, pause or ignore.
# schema:
#   policies:
#     drop_column: apply            # docs/schema-changes.md lists the kinds and their defaults

# tools:
#   pg_bin: /usr/lib/postgresql/18/bin   # where pg_dump and pg_restore are
"""

_REPLICA = """\
  # `keepstream init --grants --for {name}` prints the SQL of its role.
  {name}:
    url: {url}
    # initial: copy                 # copy: make schema and rows; data: rows only; none: it is equal already
    # delay: 5m                     # stay this far behind on purpose
    # copy_awaited: auto            # manual: an operator copies large tables that come later
"""

_NO_REPLICA = """\
# replicas:
#   standby: postgresql://keepstream@standby/crm
"""


def render_config(choices: Choices) -> str:
    """The file's text."""
    replicas = "".join(_REPLICA.format(name=_quote(n), url=_quote(u)) for n, u in choices.replicas.items())
    return _TEMPLATE.format(
        name=_quote(choices.name),
        source=_quote(choices.source),
        keyless=choices.keyless.value,
        log=_quote(choices.log),
        replicas=f"replicas:\n{replicas}" if replicas else _NO_REPLICA,
    )


def _quote(text: str) -> str:
    """As YAML: plain where it is read back as the same text, else in double quotes (JSON's escapes)."""
    try:
        plain = yaml.safe_load(f"x: {text}") == {"x": text}
    except yaml.YAMLError:
        plain = False
    return text if plain and text.isprintable() else json.dumps(text, ensure_ascii=False)
