# One image for every process of the platform; the command chooses which.
FROM python:3.11-slim-bookworm AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.13.8 && python -m venv /opt/ibook
WORKDIR /src
COPY requirements/runtime.txt requirements/runtime.txt
RUN uv pip install --require-hashes -r requirements/runtime.txt --python /opt/ibook/bin/python
COPY pyproject.toml README.md LICENSE ./
COPY ibook_assets ibook_assets
COPY ibook_serving ibook_serving
COPY ibook_sim ibook_sim
RUN uv pip install --no-deps . --python /opt/ibook/bin/python

FROM python:3.11-slim-bookworm
ARG GIT_SHA=unknown
ENV PATH=/opt/ibook/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    DAGSTER_HOME=/srv/ibook \
    NUMBA_CACHE_DIR=/srv/ibook/.ibook/numba \
    IBOOK_GIT_SHA=$GIT_SHA
RUN useradd --uid 10001 --create-home ibook \
    && install -d -o ibook -g ibook /srv/ibook /srv/ibook/.ibook
COPY --from=build /opt/ibook /opt/ibook
COPY --chown=ibook:ibook workspace.yaml /srv/ibook/workspace.yaml
COPY --chown=ibook:ibook deploy/dagster.yaml /srv/ibook/dagster.yaml
USER ibook
WORKDIR /srv/ibook
VOLUME /srv/ibook/.ibook
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
CMD ["python", "-m", "ibook_serving", "--host", "0.0.0.0"]
