# gvit-train on GPUs. Start it on each node through torchrun: see docs/cluster.md.
#
#   docker build --file docker/train.Dockerfile --tag gvit:train .

ARG PYTHON_BASE=python:3.12.11-slim-bookworm

FROM ${PYTHON_BASE} AS build
COPY docker/ /docker/
COPY . /source
ARG CONSTRAINTS=
RUN /docker/install.sh /source /opt/gvit cuda "${CONSTRAINTS}"

FROM ${PYTHON_BASE}
COPY docker/ /docker/
# torch.compile calls a C compiler at run time.
RUN /docker/packages.sh gcc libc6-dev
COPY --from=build /opt/gvit /opt/gvit
RUN /docker/user.sh gvit 10001 /data /out /var/cache/gvit
ENV PATH=/opt/gvit/bin:${PATH} NUMBA_CACHE_DIR=/var/cache/gvit GVIT_CACHE=/var/cache/gvit PYTHONUNBUFFERED=1
USER gvit
WORKDIR /out
RUN /docker/smoke.sh /opt/gvit/bin
ENTRYPOINT ["gvit-train"]
CMD ["--help"]
