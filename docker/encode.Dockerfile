# gvit-encode on GPUs: the kernels are compiled on first use by NVRTC, which comes with torch. No CUDA toolkit.
#
#   docker build --file docker/encode.Dockerfile --tag gvit:encode .

ARG PYTHON_BASE=python:3.12.11-slim-bookworm

FROM ${PYTHON_BASE} AS build
COPY docker/ /docker/
COPY . /source
ARG CONSTRAINTS=
RUN /docker/install.sh /source /opt/gvit cuda "${CONSTRAINTS}"

FROM ${PYTHON_BASE}
COPY docker/ /docker/
COPY --from=build /opt/gvit /opt/gvit
RUN /docker/user.sh gvit 10001 /data /out /var/cache/gvit
ENV PATH=/opt/gvit/bin:${PATH} NUMBA_CACHE_DIR=/var/cache/gvit GVIT_CACHE=/var/cache/gvit PYTHONUNBUFFERED=1
USER gvit
WORKDIR /out
RUN /docker/smoke.sh /opt/gvit/bin
ENTRYPOINT ["gvit-encode"]
CMD ["--help"]
