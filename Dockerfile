# The main job in a box: docker build -t mask-frozen-detr . && docker run mask-frozen-detr
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml README.md LICENSE Makefile ./
COPY src src
RUN make install
CMD ["make", "demo"]
