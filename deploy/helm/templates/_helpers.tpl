{{- /* Names. KubeRay adds up to nine characters to a cluster's name and refuses more than 53 in all. */ -}}
{{- define "secateur.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" }}
{{- end }}

{{- define "secateur.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 36 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 36 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "secateur.rayCluster" -}}
{{ include "secateur.fullname" . }}-ray
{{- end }}

{{- /* Takes {account, name}. If the chart does not make the account, it is the named or the default one. */ -}}
{{- define "secateur.serviceAccount" -}}
{{ default (.account.create | ternary .name "default") .account.name }}
{{- end }}

{{- define "secateur.apiServiceAccount" -}}
{{ include "secateur.serviceAccount" (dict "account" .Values.api.serviceAccount "name" (include "secateur.fullname" .)) }}
{{- end }}

{{- define "secateur.rayServiceAccount" -}}
{{ include "secateur.serviceAccount" (dict "account" .Values.rayCluster.serviceAccount "name" (include "secateur.rayCluster" .)) }}
{{- end }}

{{- /* Labels. Takes {root, component}. */ -}}
{{- define "secateur.selector" -}}
app.kubernetes.io/name: {{ include "secateur.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Labels of pods contain no versions, so that a new chart with the same image restarts nothing. */ -}}
{{- define "secateur.podLabels" -}}
{{ include "secateur.selector" . }}
app.kubernetes.io/part-of: secateur
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "secateur.labels" -}}
{{ include "secateur.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Takes {root, image, suffix}. A digest wins over a tag, which is by default the application's version. */ -}}
{{- define "secateur.image" -}}
{{- $registry := ternary "" (printf "%s/" .root.Values.image.registry) (empty .root.Values.image.registry) -}}
{{- $version := printf "%s%s" .root.Chart.AppVersion (default "" .suffix) -}}
{{- if .image.digest -}}
{{ printf "%s%s@%s" $registry .image.repository .image.digest }}
{{- else -}}
{{ printf "%s%s:%s" $registry .image.repository (default $version .image.tag) }}
{{- end -}}
{{- end }}

{{- define "secateur.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Security contexts. Both Dockerfiles make this user. */ -}}
{{- define "secateur.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "secateur.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Addresses. */ -}}
{{- define "secateur.publicUrl" -}}
{{- $service := printf "http://%s.%s.svc:%d" (include "secateur.fullname" .) .Release.Namespace (int .Values.api.service.port) -}}
{{ default $service .Values.api.publicUrl }}
{{- end }}

{{- define "secateur.rayAddress" -}}
{{- $head := printf "http://%s-head-svc.%s.svc:8265" (include "secateur.rayCluster" .) .Release.Namespace -}}
{{ .Values.rayCluster.enabled | ternary $head .Values.ray.address }}
{{- end }}

{{- /* The port of an http(s) address. */ -}}
{{- define "secateur.port" -}}
{{- $url := urlParse . -}}
{{- $given := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{ default (eq $url.scheme "http" | ternary "80" "443") $given }}
{{- end }}

{{- /* The number of bytes of a quantity such as 16Gi or 512Mi. */ -}}
{{- define "secateur.bytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{ mul $number (hasSuffix "Gi" . | ternary 1073741824 1048576) }}
{{- end }}

{{- /* The value of a setting as text. Helm reads numbers as floats, and prints 10000000 as 1e+07. */ -}}
{{- define "secateur.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- /* An environment variable from a secret. Takes {name, secret, key}. */ -}}
{{- define "secateur.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{- /* The secrets of storage and hub, for the API and the Ray pods. */ -}}
{{- define "secateur.sharedSecretEnv" -}}
{{- with .Values.storage }}
{{- if .existingSecret -}}
{{ include "secateur.secretEnv" (dict "name" "SECATEUR_S3_ACCESS_KEY" "secret" .existingSecret "key" .accessKeyKey) }}
{{ include "secateur.secretEnv" (dict "name" "SECATEUR_S3_SECRET_KEY" "secret" .existingSecret "key" .secretKeyKey) }}
{{- end }}
{{- end }}
{{- with .Values.hub }}
{{- if .existingSecret }}
{{ include "secateur.secretEnv" (dict "name" "SECATEUR_HUB_TOKEN" "secret" .existingSecret "key" .key) }}
{{- end }}
{{- end }}
{{- end }}
