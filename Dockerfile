# docker build -t insideout .
# What configs/rayjob.yaml runs: Ray's own image with this project installed into it. The image has all
# that CUDA programs need but the driver, which has to be 580 or newer. PyTorch 2.14 with CUDA 13 is built
# for Turing (sm_75) and newer: no V100, P100 or GTX 10xx. For machines without GPUs:
#   docker build --build-arg RAY_IMAGE=rayproject/ray:2.60.0-py311-cpu -t insideout .
ARG RAY_IMAGE=rayproject/ray:2.60.0-py311-gpu
FROM ${RAY_IMAGE}

# Nothing is reported to anyone, and nothing fetched at run time.
ENV RAY_USAGE_STATS_ENABLED=0 \
    YOLO_OFFLINE=1 \
    YOLO_AUTOINSTALL=0 \
    ULTRALYTICS_SAFE_LOAD=1

# OpenCV is linked against these, which Ray's image has not.
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libsm6 libxcb1 libxext6 \
    && rm -rf /var/lib/apt/lists/*

USER ray
RUN mkdir /home/ray/insideout
WORKDIR /home/ray/insideout

# The dependencies first: a change of the code below does not fetch them again.
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ATTRIBUTION.md ./
COPY --chown=ray:users insideout/__init__.py insideout/
RUN pip install --no-cache-dir -c constraints.txt .

COPY --chown=ray:users insideout/ insideout/
COPY --chown=ray:users pipelines/ pipelines/
COPY --chown=ray:users tune/ tune/
RUN pip install --no-cache-dir --no-deps --force-reinstall . && rm -rf build

COPY --chown=ray:users configs/ configs/
COPY --chown=ray:users packs/ packs/
COPY --chown=ray:users data/excerpt/ data/excerpt/
CMD ["insideout", "--help"]
