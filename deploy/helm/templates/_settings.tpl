{{- /* The environment of the API, except for secrets. An empty value means that the setting is not set. */ -}}
{{- define "secateur.settings" -}}
SECATEUR_HOST: "0.0.0.0"
SECATEUR_PORT: "8080"
SECATEUR_STATE_DIR: /var/lib/secateur
SECATEUR_PUBLIC_URL: {{ include "secateur.publicUrl" . | quote }}
SECATEUR_AUTH: {{ .Values.auth.mode }}
SECATEUR_RAY_ADDRESS: {{ include "secateur.rayAddress" . | quote }}
{{- if .Values.ray.token.existingSecret }}
SECATEUR_RAY_TOKEN_PATH: /etc/secateur/ray/token
{{- end }}
SECATEUR_STORAGE_URL: {{ .Values.storage.url | quote }}
SECATEUR_S3_ENDPOINT_URL: {{ .Values.storage.endpointUrl | quote }}
SECATEUR_S3_REGION: {{ .Values.storage.region | quote }}
SECATEUR_S3_CHECKSUMS: {{ .Values.storage.checksums | quote }}
SECATEUR_S3_SSE: {{ .Values.storage.sse | quote }}
SECATEUR_S3_KMS_KEY_ID: {{ .Values.storage.kmsKeyId | quote }}
SECATEUR_HUB_ENDPOINT: {{ .Values.hub.endpoint | quote }}
SECATEUR_HUB_OFFLINE: {{ .Values.hub.offline | quote }}
SECATEUR_MAX_RUNNING_JOBS: {{ .Values.settings.maxRunningJobs | quote }}
SECATEUR_LOG_LEVEL: {{ .Values.settings.logLevel }}
{{- if .Values.ingress.enabled }}
FORWARDED_ALLOW_IPS: {{ .Values.ingress.trustedProxies | quote }}
{{- end }}
{{- range $name, $value := .Values.settings.extra }}
{{ $name }}: {{ include "secateur.text" $value | quote }}
{{- end }}
{{- end }}
