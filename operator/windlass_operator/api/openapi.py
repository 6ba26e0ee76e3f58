"""The OpenAPI document: what FastAPI knows of the routes, and what it cannot know: errors, examples, who may call."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from windlass_operator.api.schemas import BatchRequest, Error, ResumeRequest, TriggerRequest

SUMMARY: Final = "Durable background tasks for Kubernetes."
DESCRIPTION: Final = (
    "Trigger runs of Tasks, wait for their results, and see what happened to them.\n\n"
    "Send a Kubernetes token of audience `windlass`: `kubectl create token SERVICEACCOUNT --audience=windlass`. What "
    "it may do is what RBAC grants on `runs`, `approvals` and `events` of `windlass.dev` in the namespace of the path. "
    "Every refusal has the same body: `code`, `message`, and where they help `field` and `hint`. After a 503, "
    "repeat the request."
)
SECURITY: Final = {
    "kubernetes": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A Kubernetes token of audience `windlass`. TokenReview says whose it is, SubjectAccessReview "
        "what it may do; both answers are remembered for at most ten seconds.",
    }
}

_ID: Final = "019ac3f2-7f10-7d52-9f0e-2b8f6d0c9a11"
RUN: Final = {
    "id": _ID,
    "namespace": "shop",
    "task": "order",
    "name": None,
    "tags": ["eu"],
    "createdAt": "2026-11-21T07:30:00.000000Z",
    "state": "Running",
    "attempt": 1,
    "maxAttempts": 3,
    "failures": {"user": 0, "infra": 0},
    "steps": {"succeeded": 1, "failed": 0, "running": 1, "waiting": 0},
    "currentStep": "charge",
    "version": 4,
    "podName": "order-7d52",
    "startedAt": "2026-11-21T07:30:00.412000Z",
}
APPROVAL: Final = {
    "name": "order-w3kq7c2mza",
    "namespace": "shop",
    "run": _ID,
    "task": "order",
    "step": "approval",
    "question": "Refund 80 EUR to order 7?",
    "state": "Pending",
    "createdAt": "2026-11-21T07:30:01.000000Z",
    "expiresAt": "2026-11-28T07:30:01.000000Z",
}
EXAMPLES: Final[dict[str, Any]] = {
    "run": RUN,
    "runs": {"items": [RUN], "nextCursor": None},
    "batch": {"items": [{"id": _ID}, {"id": "019ac3f2-7f10-7d52-9f0e-2b8f6d0c9a12"}]},
    "queues": {
        "items": [
            {
                "name": "payments",
                "concurrency": 5,
                "paused": False,
                "maxLength": None,
                "missing": False,
                "running": 5,
                "queued": 12,
                "delayed": 1,
                "oldest": "2026-11-21T07:29:00.000000Z",
            }
        ],
        "nextCursor": None,
    },
    "pools": {
        "items": [
            {
                "name": "fast",
                "missing": False,
                "minReplicas": 1,
                "maxReplicas": 10,
                "wanted": None,
                "standby": 0,
                "slots": 4,
                "replicas": 3,
                "ready": 3,
                "busy": 2,
                "idle": 1,
                "running": 6,
                "queued": 0,
            }
        ],
        "nextCursor": None,
    },
    "explain": {
        "id": _ID,
        "state": "Queued",
        "reason": "ConcurrencyLimit",
        "message": "Queue 'payments' runs 5 of at most 5 at once.",
        "queue": "payments",
        "ahead": 3,
        "waitsFor": [{"reason": "ConcurrencyLimit", "message": "Queue 'payments' runs 5 of at most 5 at once."}],
    },
    "tree": {
        "items": [
            {
                "id": _ID,
                "task": "order",
                "name": None,
                "parentId": None,
                "depth": 0,
                "detached": False,
                "state": "Waiting",
                "reason": "WaitingForRun",
                "message": None,
                "attempt": 1,
                "createdAt": "2026-11-21T07:30:00.000000Z",
                "startedAt": "2026-11-21T07:30:00.412000Z",
                "finishedAt": None,
            },
            {
                "id": "019ac3f2-7f10-7d52-9f0e-2b8f6d0c9a12",
                "task": "invoice",
                "name": None,
                "parentId": _ID,
                "depth": 1,
                "detached": False,
                "state": "Queued",
                "reason": None,
                "message": None,
                "attempt": 0,
                "createdAt": "2026-11-21T07:30:01.000000Z",
                "startedAt": None,
                "finishedAt": None,
            },
        ],
        "truncated": False,
    },
    "steps": {
        "items": [
            {
                "key": "charge",
                "name": "charge",
                "argsHash": "5e1f0c2ab9d34c77",
                "kind": "step",
                "state": "succeeded",
                "result": {"receipt": 81},
                "startedAt": "2026-11-21T07:30:00.500000Z",
                "finishedAt": "2026-11-21T07:30:00.731000Z",
                "attempt": 1,
                "tries": 1,
            }
        ],
        "nextCursor": None,
    },
    "attempts": {
        "items": [
            {
                "number": 1,
                "outcome": "Lost",
                "startedAt": "2026-11-21T07:30:00.412000Z",
                "endedAt": "2026-11-21T07:30:04.020000Z",
                "error": {
                    "type": "PodDeleted",
                    "message": "Pod order-7d52: The pod was deleted.",
                    "class": "infra",
                    "reason": "PodDeleted",
                },
                "memoryBytes": 48234496,
                "pod": {
                    "name": "order-7d52",
                    "node": "worker-1",
                    "reason": "PodDeleted",
                    "message": "The pod was deleted.",
                    "lastState": {
                        "phase": "Running",
                        "events": [
                            {
                                "at": "2026-11-21T07:30:04Z",
                                "reason": "Killing",
                                "message": "Stopping container runner",
                                "count": 1,
                            }
                        ],
                    },
                },
            }
        ]
    },
    "pod": {"phase": "Failed", "events": [], "lines": ["charging order 7"]},
    "events": {
        "items": [
            {
                "n": 1,
                "at": "2026-11-21T07:30:00.000000Z",
                "type": "Queued",
                "attempt": None,
                "reason": None,
                "message": None,
            }
        ],
        "nextCursor": None,
    },
    "logs": {
        "items": [
            {
                "attempt": 1,
                "seq": 1,
                "at": "2026-11-21T07:30:00.520000Z",
                "stream": "stdout",
                "text": "charging order 7",
                "step": "charge",
            }
        ],
        "nextCursor": "1.1",
        "finished": False,
    },
    "result": {"receipt": 81},
    "approval": {**APPROVAL, "details": {"order": 7}},
    "approvals": {"items": [APPROVAL], "nextCursor": None},
    "payload": {"orderId": 7},
    "event": {"id": "payment-81", "runs": 1},
    "completed": {"token": _ID, "completed": True},
}
_REFUSALS: Final = {
    400: ("The request cannot be understood.", "InvalidRequest", "limit: Input should be less than or equal to 500"),
    401: (
        "No token, or one that Kubernetes does not vouch for.",
        "Unauthorized",
        "The token is not valid for this API.",
    ),
    403: (
        "The token's owner lacks the permission.",
        "Forbidden",
        "system:serviceaccount:shop:web may not list runs.windlass.dev in namespace 'shop'.",
    ),
    404: ("There is no such thing in this namespace.", "RunNotFound", "Run 'order-1' is not in namespace 'shop'."),
    409: (
        "The run's state does not allow it: it ended without a result, or is not suspended.",
        "RunFailed",
        f"Run {_ID} is Failed: ValueError: no such order",
    ),
    413: ("The body is over 8 MiB.", "PayloadTooLarge", "The body has 9000000 bytes; the limit is 8388608."),
    415: (
        "The body is not declared as JSON.",
        "UnsupportedMediaType",
        "The body is application/x-www-form-urlencoded.",
    ),
    422: (
        "The payload or the Task is not acceptable.",
        "PayloadInvalid",
        "payload.orderId: 'seven' is not of type 'integer'",
    ),
    500: ("Our fault; the API's log has the details.", "InternalError", "Something went wrong on our side."),
    503: (
        "The ledger, the object store or Kubernetes does not answer. Repeat the request after `Retry-After`.",
        "LedgerUnavailable",
        "The ledger does not answer: connection refused",
    ),
}
_EVERYWHERE: Final = (400, 401, 403, 404, 500, 503)
_RETRY_AFTER: Final = {"description": "Seconds to wait.", "schema": {"type": "integer"}}


def answer(description: str, model: type[BaseModel] | None, example: str) -> dict[str, Any]:
    """Return a success for a route's ``responses``. Without a model it is any JSON."""
    content = {"examples": {example: {"value": EXAMPLES[example]}}}
    media: dict[str, Any] = content if model else {**content, "schema": {}}
    return {"description": description, "content": {"application/json": media}} | ({"model": model} if model else {})


def refusals(*more: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors that every route can answer, and those of one."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*_EVERYWHERE, *more}):
        found |= refusal(status, *_REFUSALS[status])
        if status == 503:
            found[status]["headers"] = {"Retry-After": _RETRY_AFTER}
    return found


def refusal(status: int, description: str, code: str, message: str) -> dict[int | str, dict[str, Any]]:
    """Return one error for a route's ``responses``, in words of its own."""
    example = {"code": code, "message": message}
    return {
        status: {
            "description": description,
            "model": Error,
            "content": {"application/json": {"examples": {code: {"value": example}}}},
        }
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose one definition stands where it is used: references would look for it in the document."""
    definitions = schema.pop("$defs")
    schema["properties"]["items"]["items"] = definitions[schema["properties"]["items"]["items"]["$ref"].split("/")[-1]]
    return schema


TRIGGER_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": TriggerRequest.model_json_schema(),
                "examples": {
                    "payload": {"value": {"payload": {"orderId": 7}, "tags": ["eu"]}},
                    "nothing": {"summary": "All fields are optional.", "value": {}},
                },
            }
        },
    },
}


RESUME_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": ResumeRequest.model_json_schema(),
                "examples": {
                    "version": {"value": {"version": 4}},
                    "newest": {"summary": "The newest version of the Task.", "value": {}},
                },
            }
        },
    },
}


BATCH_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _inlined(BatchRequest.model_json_schema()),
                "examples": {"two": {"value": {"items": [{"payload": {"orderId": 7}}, {"payload": {"orderId": 8}}]}}},
            }
        },
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document of the public routes."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=SUMMARY,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[
            {"name": "runs", "description": "Runs of Tasks."},
            {"name": "approvals", "description": "What runs ask people."},
            {"name": "events", "description": "What runs wait for."},
        ],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    made["components"]["securitySchemes"] = SECURITY
    made["security"] = [{"kubernetes": []}]
    schemas = made["components"]["schemas"]
    for path in made["paths"].values():
        for operation in path.values():
            # FastAPI's own idea of a refused parameter: we answer 400 with our body instead.
            if "HTTPValidationError" in str(operation["responses"].get("422", {}).get("content")):
                del operation["responses"]["422"]
            for response in operation["responses"].values():
                for name, example in response["content"]["application/json"]["examples"].items():
                    # FastAPI leaves every null out, in the values of examples too.
                    example["value"] = EXAMPLES.get(name, example["value"])
            for parameter in operation.get("parameters", ()):
                parameter.setdefault("description", _PARAMETERS.get(parameter["name"], ""))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return made


_PARAMETERS: Final = {
    "namespace": "Namespace of the Task and its runs.",
    "task": "Name of the Task.",
    "number": "Number of the attempt, from 1.",
    "approval": "Name of the approval.",
    "run": "Id of the run, or name of its Run resource (the newest of that name).",
}
