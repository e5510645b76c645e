# The job server in a container, with the queue on a volume:
#
#   docker build -t gearmand .
#   docker run -p 127.0.0.1:4730:4730 -v gearmand:/var/lib/gearmand gearmand
#
# Further options follow the name of the image. The commands are in it too:
#
#   docker exec CONTAINER gearadmin --status
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE MANIFEST.in ./
COPY man man
COPY gearmand gearmand
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
# Drivers of databases for the queue, such as postgres,redis; none as it comes.
ARG EXTRAS=""
COPY --from=build /wheels /wheels
RUN wheel="$(ls /wheels/*.whl)" \
    && python -m pip install --no-cache-dir "${wheel}${EXTRAS:+[${EXTRAS}]}" \
    && rm -rf /wheels \
    && useradd --system --uid 4730 --user-group --no-create-home --home-dir /var/lib/gearmand gearmand \
    && install -d -o gearmand -g gearmand -m 0750 /var/lib/gearmand
USER gearmand
WORKDIR /var/lib/gearmand
VOLUME /var/lib/gearmand
EXPOSE 4730
# docker stop: jobs that run may finish, for as long as its --time.
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["gearadmin", "--host", "127.0.0.1", "--getpid"]
ENTRYPOINT ["gearmand", "--queue=/var/lib/gearmand/queue.db"]
