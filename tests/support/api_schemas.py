"""Schemas of what well-known interfaces send and take: their shapes, not all of their fields."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "maxLength": 24}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
DATE: Schema = {"type": "string", "format": "date"}
UUID: Schema = {"type": "string", "format": "uuid"}


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def natural(most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": 0, **({"maximum": most} if most is not None else {})}


def between(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def many(items: Schema, most: int = 3, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def record(optional: tuple[str, ...] = (), **fields: Schema) -> Schema:
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def shared(schema: Schema, **definitions: Schema) -> Schema:
    return {**schema, "$defs": definitions}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


USER = record(login=TEXT, id=natural(), site_admin=FLAG)
POINT = {"type": "array", "prefixItems": [between(-180, 180), between(-90, 90)], "items": False, "minItems": 2}
MONEY = record(amount=natural(10**9), currency=text("^[A-Z]{3}$"))

SCHEMAS: dict[str, Schema] = {
    # Forges
    "github issue": record(number=natural(), title=TEXT, state=one_of("open", "closed"), user=USER, labels=many(TEXT)),
    "github release": record(
        tag_name=text(r"^v\d+\.\d+\.\d+$"), draft=FLAG, published_at=maybe(TIME), assets=many(TEXT)
    ),
    "github commit": record(sha=text("^[0-9a-f]{40}$"), message=TEXT, author=record(name=TEXT, date=TIME)),
    "github workflow run": record(
        id=natural(), status=one_of("queued", "in_progress", "completed"), attempt=natural(99)
    ),
    "github error": record(message=TEXT, documentation_url={"type": "string", "format": "uri", "maxLength": 60}),
    "gitlab pipeline": record(id=natural(), ref=TEXT, duration=maybe(natural()), coverage=maybe(between(0, 100))),
    "semantic version": text(r"^(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})(-[a-z0-9]{1,9})?$"),
    # Payments
    "stripe charge": record(
        id=text("^ch_[A-Za-z0-9]{24}$"), paid=FLAG, money=MONEY, status=one_of("succeeded", "failed")
    ),
    "stripe card": record(
        brand=one_of("visa", "amex"), last4=text(r"^\d{4}$"), exp_month={"type": "integer", "minimum": 1, "maximum": 12}
    ),
    "paypal order": record(intent=one_of("CAPTURE", "AUTHORIZE"), purchase_units=many(MONEY, least=1)),
    "iban": text(r"^[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}$"),
    "iso 20022 amount": record(Ccy=text("^[A-Z]{3}$"), value={"type": "number", "minimum": 0, "multipleOf": 0.01}),
    "exchange rates": record(
        base=text("^[A-Z]{3}$"), date=DATE, rates={"type": "object", "additionalProperties": NUMBER, "maxProperties": 3}
    ),
    # Language models
    "openai tool call": record(
        id=text("^call_[A-Za-z0-9]{8}$"),
        type={"const": "function"},
        function=record(name=text("^[a-z_]{1,20}$"), arguments=TEXT),
    ),
    "openai usage": record(prompt_tokens=natural(), completion_tokens=natural(), total_tokens=natural()),
    "openai chat message": {
        "oneOf": [
            record(role={"const": "user"}, content=TEXT),
            record(role={"const": "assistant"}, content=maybe(TEXT), refusal=maybe(TEXT)),
        ]
    },
    "anthropic content": many(
        {"oneOf": [record(type={"const": "text"}, text=TEXT), record(type={"const": "tool_use"}, id=TEXT, name=TEXT)]},
        least=1,
    ),
    "mcp request": record(
        ("params",),
        jsonrpc={"const": "2.0"},
        id={"type": ["string", "integer"], "maxLength": 8},
        method=TEXT,
        params={"type": "object", "maxProperties": 1},
    ),
    "mcp tool": record(
        name=text("^[A-Za-z0-9_-]{1,32}$"),
        description=TEXT,
        inputSchema=record(type={"const": "object"}, required=many(TEXT)),
    ),
    "classification": record(label=one_of("positive", "negative", "neutral"), confidence=between(0, 1)),
    "extraction": record(people=many(record(name=TEXT, age=maybe(natural(150))), most=2), places=many(TEXT)),
    "chain of thought": record(steps=many(record(explanation=TEXT, output=TEXT), least=1), final_answer=TEXT),
    # Clouds
    "kubernetes metadata": record(
        ("labels",),
        name=text("^[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?$"),
        labels={"type": "object", "additionalProperties": TEXT, "maxProperties": 2},
    ),
    "kubernetes container": record(
        ("ports",),
        name=TEXT,
        image=TEXT,
        ports=many(record(containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
    ),
    "kubernetes quantity": {"anyOf": [text(r"^\d{1,6}(\.\d{1,3})?(m|Ki|Mi|Gi)?$"), natural()]},
    "docker health": record(Status=one_of("none", "starting", "healthy", "unhealthy"), FailingStreak=natural()),
    "aws policy": record(
        Version={"const": "2012-10-17"},
        Statement=many(
            record(
                Effect=one_of("Allow", "Deny"),
                Action=many(text(r"^[a-z0-9]{2,9}:(\*|[A-Za-z]{3,9})$"), least=1),
                Resource=TEXT,
            ),
            least=1,
        ),
    ),
    "aws s3 event": record(
        Records=many(
            record(eventTime=TIME, s3=record(bucket=record(name=TEXT), object=record(key=TEXT, size=natural()))), most=2
        )
    ),
    "aws region": text(r"^(us|eu|ap)-(north|south|east|west)-[1-9]$"),
    "prometheus query": record(
        status={"const": "success"},
        data=record(
            resultType=one_of("vector", "matrix"),
            result=many(
                record(
                    metric={"type": "object", "additionalProperties": TEXT, "maxProperties": 2},
                    value={"type": "array", "prefixItems": [NUMBER, TEXT], "items": False, "minItems": 2},
                )
            ),
        ),
    ),
    "terraform output": {
        "type": "object",
        "additionalProperties": record(sensitive=FLAG, value=TEXT),
        "maxProperties": 2,
    },
    "opentelemetry span": record(
        traceId=text("^[0-9a-f]{32}$"),
        spanId=text("^[0-9a-f]{16}$"),
        kind=natural(5),
        attributes=many(record(key=TEXT, value=record(stringValue=TEXT))),
    ),
    # Places and weather
    "geojson point": record(type={"const": "Point"}, coordinates=POINT),
    "geojson feature": record(
        type={"const": "Feature"},
        geometry=maybe(record(type={"const": "LineString"}, coordinates=many(POINT, least=2))),
        properties={"type": "object", "additionalProperties": TEXT, "maxProperties": 2},
    ),
    "openweather": record(
        temp=between(-90, 60),
        humidity={"type": "integer", "minimum": 0, "maximum": 100},
        wind=record(deg={"type": "integer", "minimum": 0, "exclusiveMaximum": 360}),
    ),
    "altitude": {"type": "integer", "minimum": -430, "maximum": 8849},
    "postal address": record(
        ("street2",), street=TEXT, street2=TEXT, zip=text(r"^\d{5}(?:-\d{4})?$"), country=text("^[A-Z]{2}$")
    ),
    "open street map node": record(
        id=natural(),
        lat=between(-90, 90),
        lon=between(-180, 180),
        tags={"type": "object", "additionalProperties": TEXT, "maxProperties": 3},
    ),
    # People and messages
    "slack message": record(
        channel=text("^[CGD][A-Z0-9]{8,10}$"), ts=text(r"^\d{10}\.\d{6}$"), text=TEXT, blocks=many(ref("block"), most=2)
    )
    | {
        "$defs": {"block": {"oneOf": [record(type={"const": "divider"}), record(type={"const": "section"}, text=TEXT)]}}
    },
    "discord embed": record(
        ("color", "fields"),
        title=TEXT,
        color=natural(0xFFFFFF),
        fields=many(record(name=TEXT, value=TEXT, inline=FLAG)),
    ),
    "telegram update": record(update_id=INTEGER, message=record(message_id=INTEGER, date=natural(), text=TEXT)),
    "email": record(
        to=many({"type": "string", "format": "email", "maxLength": 40}, least=1),
        subject=TEXT,
        attachments=many(record(name=text(r"^[\w-]{1,9}\.(?:pdf|png)$"), size=natural())),
    ),
    "calendar event": record(
        ("recurrence",), summary=TEXT, start=TIME, end=TIME, recurrence=text(r"^FREQ=(DAILY|WEEKLY);COUNT=\d{1,2}$")
    ),
    "phone": text(r"^\+?[1-9]\d{6,14}$"),
    "scim user": record(
        userName=TEXT,
        emails=many(record(value={"type": "string", "format": "email", "maxLength": 40}, primary=FLAG), least=1),
        active=FLAG,
    ),
    "oauth token": record(
        access_token=text(r"^[A-Za-z0-9._~+/-]{8,40}=*$"), token_type={"const": "Bearer"}, expires_in=natural()
    ),
    "jwt claims": record(iss=TEXT, exp=natural(), aud={"anyOf": [TEXT, many(TEXT)]}),
    "json web key": record(kty=one_of("RSA", "EC"), use=one_of("sig", "enc"), n=text("^[A-Za-z0-9_-]{10,40}$")),
    # Data
    "notebook cell": {
        "anyOf": [
            record(cell_type={"const": "markdown"}, source=many(TEXT)),
            record(cell_type={"const": "code"}, source=many(TEXT), execution_count=maybe(natural())),
        ]
    },
    "vega-lite": record(mark=one_of("bar", "line", "point"), encoding=record(x=ref("channel"), y=ref("channel")))
    | {"$defs": {"channel": record(field=TEXT, type=one_of("quantitative", "nominal"))}},
    "json patch": many(
        {
            "oneOf": [
                record(op={"const": "remove"}, path=text("^(/[^/~]{1,8}){0,3}$")),
                record(
                    op=one_of("add", "replace"),
                    path=text("^(/[^/~]{1,8}){0,3}$"),
                    value={"type": ["string", "number", "boolean", "null"], "maxLength": 8},
                ),
            ]
        }
    ),
    "elasticsearch hit": record(
        _index=TEXT,
        _score=maybe(between(0, 1000)),
        _source={
            "type": "object",
            "additionalProperties": {"type": ["string", "integer"], "maxLength": 9},
            "maxProperties": 2,
        },
    ),
    "pandas split": record(columns=many(TEXT), index=many(natural()), data=many(many(maybe(NUMBER)))),
    "cron": text(r"^(\*|[0-5]?\d) (\*|1?\d|2[0-3]) (\*|[1-9]|[12]\d|3[01]) (\*|[1-9]|1[0-2]) (\*|[0-6])$"),
    "problem details": record(
        ("detail",),
        type={"type": "string", "format": "uri", "maxLength": 60},
        status={"type": "integer", "minimum": 400, "exclusiveMaximum": 600},
        detail=TEXT,
    ),
    "ip route": record(
        gateway={"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]},
        metric=natural(9999),
        device=text("^[a-z]{1,9}[0-9]$"),
    ),
    "tree": shared(ref("node"), node=record(name=TEXT, children=many(ref("node"), most=2))),
    "linked list": shared(ref("item"), item=record(value=INTEGER, next=maybe(ref("item")))),
    "expression": shared(
        ref("expression"),
        expression={
            "anyOf": [between(-1e3, 1e3), record(op=one_of("+", "-"), left=ref("expression"), right=ref("expression"))]
        },
    ),
    "employee": shared(
        record(person=ref("person"), manager=maybe(ref("person")), id=UUID),
        person=record(name=TEXT, born=DATE, address=ref("address")),
        address=record(city=TEXT, since={"type": "integer", "minimum": 1900, "maximum": 2100}),
    ),
    "inheritance": {
        "allOf": [
            {"type": "object", "properties": {"kind": TEXT}, "required": ["kind"]},
            {"type": "object", "properties": {"size": natural(9)}, "required": ["size"]},
        ],
        "maxProperties": 2,
    },
}
