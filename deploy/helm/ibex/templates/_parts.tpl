{{/* Names, labels and the parts that all pods share. */}}

{{/* The start of all names, at most 40 characters. It contains the chart's name, which the alert IbexTargetDown looks for in
the names of jobs. Names of Services have no dot, and begin with a letter */}}
{{- define "ibex.fullname" -}}
{{- $release := .Release.Name | replace "." "-" }}
{{- if regexMatch "^[0-9]" $release }}{{ $release = printf "%s-%s" .Chart.Name $release }}{{ end }}
{{- $short := $release | trunc 40 | trimSuffix "-" }}
{{- if contains .Chart.Name $short }}{{ $short }}{{ else }}{{ printf "%s-%s" ($release | trunc 35 | trimSuffix "-") .Chart.Name }}{{ end }}
{{- end }}

{{/* The selector of a program's pods. Argument: list of the root context and the program */}}
{{- define "ibex.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ibex.labels" -}}
{{ include "ibex.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* The specification of a pod, without its containers and volumes. Nothing in it gives access to the cluster */}}
{{- define "ibex.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* The image of a container, and its security context */}}
{{- define "ibex.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Settings of a program: its files of secrets, then its other settings. Argument: its values. Helm would print a large
number as 1e+09, JSON does not */}}
{{- define "ibex.settings" -}}
{{- range .secretSettings }}
- name: {{ . }}_FILE
  value: /run/secrets/ibex/{{ . }}
{{- end }}
{{- range $name, $value := .settings }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{- define "ibex.probes" -}}
startupProbe:
  httpGet: { path: /health, port: ops }
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /health, port: ops }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: { path: /ready, port: ops }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The two zones and the nodes share the pods. Argument: list of the root context and the program */}}
{{- define "ibex.spread" -}}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "ibex.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* The time to drain, to finish requests, and to flush (15 s); the rest is for a supervisor that waits for its workers.
Argument: the program's values */}}
{{- define "ibex.grace" -}}
{{ add .drainDelaySeconds .shutdownTimeoutSeconds 15 20 }}
{{- end }}

{{/* To names and to the servers. Argument: the values of the network policy */}}
{{- define "ibex.egress" -}}
- ports: # names
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
- ports:
    {{- range .serverPorts }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
  {{- with .servers }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
