# gvit-encode on GPUs with `--renderer gsplat`: its kernels are built in, for the architectures below. Our own
# kernels need none of this: encode.Dockerfile.
#
#   docker build --file docker/gsplat.Dockerfile --tag gvit:gsplat .
#
# The CUDA version must have the same major number as that of the torch wheels on PyPI.

ARG CUDA=13.0.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS build
COPY docker/ /docker/
RUN /docker/packages.sh python3 python3-dev python3-venv g++ ninja-build
COPY . /source
ARG CONSTRAINTS=
RUN /docker/install.sh /source /opt/gvit cuda "${CONSTRAINTS}"
ARG ARCHITECTURES="8.0;8.6;8.9;9.0;10.0"
RUN /docker/gsplat.sh /opt/gvit/bin/python "${ARCHITECTURES}" /opt/extensions

# The devel base here too: torch looks for nvcc before it loads what is built already.
FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU}
COPY docker/ /docker/
RUN /docker/packages.sh python3 python3-dev g++ ninja-build
COPY --from=build /opt/gvit /opt/gvit
RUN /docker/user.sh gvit 10001 /data /out /var/cache/gvit
COPY --from=build --chown=gvit:gvit /opt/extensions /opt/extensions
ARG ARCHITECTURES="8.0;8.6;8.9;9.0;10.0"
ENV PATH=/opt/gvit/bin:${PATH} NUMBA_CACHE_DIR=/var/cache/gvit GVIT_CACHE=/var/cache/gvit TORCH_EXTENSIONS_DIR=/opt/extensions \
    TORCH_CUDA_ARCH_LIST=${ARCHITECTURES} PYTHONUNBUFFERED=1
USER gvit
WORKDIR /out
RUN /docker/smoke.sh /opt/gvit/bin
ENTRYPOINT ["gvit-encode"]
CMD ["--help"]
