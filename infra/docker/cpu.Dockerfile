# Everything that a node, a worker or a server needs, for machines without a GPU: infra/README.md says how to build it.
# The tag names the versions for people; the digest is what is pulled.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base

# Whatever would write the time writes this one.
ARG SOURCE_DATE_EPOCH=0
# The URL of a snapshot of the Debian archive, so that the same packages are installed whenever the image is built;
# without it, today's.
ARG DEBIAN_SNAPSHOT=
RUN if [ -n "${DEBIAN_SNAPSHOT}" ]; then \
        rm -f /etc/apt/sources.list.d/debian.sources \
        && echo "deb [check-valid-until=no] ${DEBIAN_SNAPSHOT} bookworm main" > /etc/apt/sources.list; \
    fi
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/log/apt /var/log/dpkg.log


FROM base AS packages
ARG SOURCE_DATE_EPOCH=0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/pedigree
WORKDIR /src
COPY infra/docker/wanted.py pyproject.toml requirements.lock ./
# The URL of torch's wheels for processors alone, which are 2 GB smaller; without it, pip takes the one with CUDA, which
# works as well.
ARG TORCH_INDEX=
RUN python wanted.py pyproject.toml train flows server > wanted.txt \
    && pip --python /opt/pedigree/bin/python install --no-compile ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        --constraint requirements.lock --requirement wanted.txt "setuptools>=77"
COPY LICENSE README.md pedigree.py ./
COPY stages stages
COPY flows flows
COPY lineage lineage
COPY plan plan
COPY forecast forecast
COPY infra infra
RUN pip --python /opt/pedigree/bin/python install --no-compile --no-deps --no-build-isolation . \
    # What it is made of can't change in an image: so nobody checks it, and it holds no time.
    && python -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/pedigree/lib


FROM base AS image
ARG SOURCE_DATE_EPOCH=0
COPY --from=packages /opt/pedigree /opt/pedigree
COPY --chmod=755 infra/docker/worker.sh /usr/local/bin/pedigree-worker
RUN groupadd --gid 10001 pedigree \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/pedigree --shell /usr/sbin/nologin pedigree \
    # A new volume that is mounted here belongs to the user.
    && install -d -o 10001 -g 10001 /data /home/pedigree/kept \
    && rm -f /var/log/lastlog /var/log/faillog
ENV PATH=/opt/pedigree/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1
USER 10001:10001
WORKDIR /home/pedigree
# tini hands signals on and collects what has ended; a stage gets its SIGTERM, and saves.
ENTRYPOINT ["tini", "--"]
CMD ["pedigree", "--help"]
