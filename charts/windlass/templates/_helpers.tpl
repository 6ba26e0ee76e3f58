{{/* The prefix of every name. For the release `windlass`, the names are those that the documentation uses. */}}
{{- define "windlass.fullname" -}}
{{- if contains "windlass" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-windlass" (.Release.Name | trunc 31 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object of the release. */}}
{{- define "windlass.labels" -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: windlass
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels that select the pods of a component. Never to be changed: selectors are immutable. Call with (list . "api"). */}}
{{- define "windlass.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Metadata of a pod. Call with (list . "api"). */}}
{{- define "windlass.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "windlass.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  {{- with $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image's full name. Call with (list . image), the image a map of registry, repository and tag. */}}
{{- define "windlass.imageName" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- $tag := $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- printf "%s/%s:%s" $registry $image.repository $tag -}}
{{- end -}}

{{- define "windlass.image" -}}
{{- include "windlass.imageName" (list . .Values.image) -}}
{{- end -}}

{{- define "windlass.runnerImage" -}}
{{- $image := dict "registry" .Values.image.registry "repository" "windlass/runner" "tag" "" -}}
{{- .Values.runner.image | default (include "windlass.imageName" (list . $image)) -}}
{{- end -}}

{{/* What runner pods call. The full name: their resolver does not try search domains first. */}}
{{- define "windlass.apiUrl" -}}
{{- printf "http://%s-api.%s.svc.%s:8080" (include "windlass.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- define "windlass.postgresHost" -}}
{{- printf "%s-postgres.%s.svc.%s" (include "windlass.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/* The Pod Security Standard `restricted`, for pods and for containers. */}}
{{- define "windlass.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "windlass.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where the pods of the release may run. */}}
{{- define "windlass.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Spread over nodes where that is possible, never at the price of not running. Call with (list . "api"). */}}
{{- define "windlass.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "windlass.selector" . | nindent 8 }}
{{- end -}}

{{/* What a process needs to reach the ledger. */}}
{{- define "windlass.ledgerEnv" -}}
- name: WINDLASS_POSTGRES_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.postgres.existingSecret }}
      key: uri
- name: WINDLASS_LOG_LEVEL
  value: {{ .Values.log.level }}
{{- end -}}

{{/* The environment of operator and API. Call with (list . port). */}}
{{- define "windlass.env" -}}
{{- $root := index . 0 -}}
{{ include "windlass.ledgerEnv" $root }}
- name: WINDLASS_PORT
  value: {{ index . 1 | quote }}
- name: WINDLASS_NAMESPACES
  value: {{ join "," $root.Values.namespaces | quote }}
- name: WINDLASS_RELEASE_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: WINDLASS_API_URL
  value: {{ include "windlass.apiUrl" $root }}
{{- with $root.Values.api.publicUrl }}
- name: WINDLASS_PUBLIC_URL
  value: {{ . | quote }}
{{- end }}
- name: WINDLASS_EVENT_RETENTION
  value: {{ $root.Values.events.retention | quote }}
- name: WINDLASS_RUNNER_IMAGE
  value: {{ include "windlass.runnerImage" $root }}
- name: WINDLASS_RUNNER_IDENTITY
  value: {{ $root.Values.runner.identity }}
- name: WINDLASS_APPROVAL_TTL
  value: {{ $root.Values.approvals.ttlAfterFinished | quote }}
- name: WINDLASS_METRICS_TASKS
  value: {{ $root.Values.metrics.tasks | quote }}
{{- with $root.Values.traces.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $root.Values.traces.ratio | quote }}
{{- end }}
{{- if $root.Values.s3.enabled }}
{{- range $name, $key := dict "BUCKET" "bucket" "ACCESS_KEY" "accessKey" "SECRET_KEY" "secretKey" }}
- name: WINDLASS_S3_{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.s3.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- range $name, $key := dict "ENDPOINT" "endpoint" "REGION" "region" }}
- name: WINDLASS_S3_{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.s3.existingSecret }}
      key: {{ $key }}
      optional: true
{{- end }}
{{- end }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Brings the ledger to this release's schema, and waits for Postgres itself. An init container and no hook: a hook runs
before the embedded database exists, and `helm install --wait` would never end. */}}
{{- define "windlass.migrate" -}}
- name: migrate
  image: {{ include "windlass.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [migrate]
  env:
    {{- include "windlass.ledgerEnv" . | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "windlass.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
{{- end -}}

{{/* Probes of both processes. Ready is: the ledger has answered once. Call with the port's name. */}}
{{- define "windlass.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end -}}

{{/* Refuses what no schema can: checked once, from the operator's Deployment. */}}
{{- define "windlass.validate" -}}
{{- if has .Release.Namespace .Values.namespaces -}}
{{- fail (printf "namespaces lists %q, the namespace of the release. Tasks cannot run there: they could read the credentials of Windlass. Take it off the list." .Release.Namespace) -}}
{{- end -}}
{{- end -}}
