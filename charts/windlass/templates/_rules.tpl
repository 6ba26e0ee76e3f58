{{/* The permissions of operator and API, each rule with the reason for it. The same rules serve a ClusterRole (whole cluster) and
the Roles of listed namespaces; tests/unit/chart/golden holds what comes out. */}}

{{- define "windlass.operatorRules" -}}
# Definitions: read, and said in their status whether they work. Nobody's spec is ever written.
- apiGroups: [windlass.dev]
  resources: [tasks]
  verbs: [get, list, watch]
# Runs: imported, shown, and deleted ttlAfterFinished after their end.
- apiGroups: [windlass.dev]
  resources: [runs]
  verbs: [get, list, watch, delete]
# Approvals: made for the waits of runs, shown, and deleted some time after the run's end. What was decided through the API is
# written into them, so that nobody decides once more.
- apiGroups: [windlass.dev]
  resources: [approvals]
  verbs: [get, list, watch, create, patch, delete]
# Queues and WorkerPools: what they ask for is read, and how full they are is shown.
- apiGroups: [windlass.dev]
  resources: [queues, workerpools]
  verbs: [get, list, watch]
- apiGroups: [windlass.dev]
  resources: [tasks/status, runs/status, approvals/status, queues/status, workerpools/status]
  verbs: [patch]
# Runner pods: started, watched, annotated while a protected step runs, deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# The last lines and events of a pod that failed, saved before it goes.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list]
# The runner credential of a namespace, and no other Secret. `create` cannot be bound to a name.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [windlass-runner]
  verbs: [get, delete]
{{- end -}}

{{- define "windlass.apiRules" -}}
# A trigger reads the Task as it is now.
- apiGroups: [windlass.dev]
  resources: [tasks]
  verbs: [get]
# A project is the namespace's UID.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end -}}

{{/* One binding's subject. Call with (list . "api"). */}}
{{- define "windlass.subject" -}}
{{- $root := index . 0 -}}
- kind: ServiceAccount
  name: {{ include "windlass.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
{{- end -}}
