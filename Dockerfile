# Keepstream with the pg_dump that a first copy needs, as an ordinary user.
FROM python:3.12-slim AS build
# For schemas/_*.c; without a compiler rows are encoded and decoded in Python, several times slower.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY pyproject.toml LICENSE ./
COPY schemas schemas
COPY connectors connectors
COPY pipeline pipeline
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# pg_dump must be at least as new as the servers, which Debian's own is not: postgresql-common knows
# where PostgreSQL's developers keep the newest for Debian.
ARG POSTGRESQL_VERSION=18
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install -y --no-install-recommends "postgresql-client-${POSTGRESQL_VERSION}" \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -rf /wheels
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/keepstream keepstream
USER keepstream
WORKDIR /var/lib/keepstream
# The home of a directory log; a Kafka log needs no volume.
VOLUME /var/lib/keepstream
ENV KEEPSTREAM_CONFIG=/etc/keepstream/keepstream.yaml \
    PATH=/usr/lib/postgresql/${POSTGRESQL_VERSION}/bin:$PATH \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["keepstream"]
CMD ["run"]
