# SPDX-License-Identifier: Apache-2.0
# The image holds the three static binaries and nothing else. The same sources give the
# same binaries, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v1.2.3 .
FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26-trixie AS build
ARG TARGETOS TARGETARCH VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/...

FROM scratch
COPY --from=build /out/ /usr/bin/
ENTRYPOINT ["/usr/bin/weir-agent"]
