# One image for every program of diskferry; the entrypoint chooses (scripts/entrypoint.sh).
#
#   docker build -t diskferry .
#   npm run image                     what is built in this checkout already, on a base made by debootstrap, without Docker
#
# BASE: any Debian 12. PROGRAM: `build` builds it from the sources, `prebuilt` takes what the checkout has built.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG PROGRAM=build

FROM ${BASE} AS build
RUN apt-get update && \
    apt-get install -y --no-install-recommends build-essential ca-certificates curl git nodejs npm && \
    rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/opt/cargo RUSTUP_HOME=/opt/rustup PATH=/opt/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
COPY . /src
RUN cd /src && npm ci && sh scripts/stage.sh /program

FROM scratch AS prebuilt
COPY out/image /program

FROM ${PROGRAM} AS program

FROM ${BASE}
# The base may have them already; then nothing is fetched.
RUN command -v qemu-img >/dev/null && test -e /etc/ssl/certs/ca-certificates.crt || \
    { apt-get update && apt-get install -y --no-install-recommends ca-certificates qemu-utils && \
      rm -rf /var/lib/apt/lists/*; }
COPY --from=program /program /usr/lib/diskferry
RUN ln -s /usr/lib/diskferry/diskferry /usr/bin/diskferry && ln -s /usr/lib/diskferry/entrypoint /usr/bin/cdi-importer && \
    ln -s /usr/lib/diskferry/entrypoint /usr/bin/cdi-uploadserver && ln -s /usr/lib/diskferry/entrypoint /usr/bin/cdi-uploadproxy && \
    ln -s /usr/lib/diskferry/imageserver /usr/bin/cdi-containerimage-server
# KubeVirt's user for disks: what virt-launcher runs as.
USER 107:107
ENTRYPOINT ["/usr/lib/diskferry/entrypoint"]
