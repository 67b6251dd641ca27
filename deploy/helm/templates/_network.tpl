{{- /* One rule of a NetworkPolicy. Takes {direction: from | to, peers, ports}; no peers means anywhere. */ -}}
{{- define "secateur.rule" -}}
{{- $rule := dict -}}
{{- if .peers }}{{ $_ := set $rule .direction .peers }}{{ end -}}
{{- range .ports -}}
{{- $port := regexMatch "^[0-9]+$" (toString .) | ternary (int .) . -}}
{{- $_ := set $rule "ports" (append (default list $rule.ports) (dict "protocol" "TCP" "port" $port)) -}}
{{- end -}}
{{ list $rule | toYaml }}
{{- end }}

{{- define "secateur.dnsRule" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
  {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "secateur.storageRules" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if hasPrefix "s3:" .Values.storage.url -}}
{{ include "secateur.rule" (dict "direction" "to" "peers" $policy.storageTo "ports" (list (include "secateur.port" (default "https://s3" .Values.storage.endpointUrl)))) }}
{{- end }}
{{- if not .Values.hub.offline }}
{{ include "secateur.rule" (dict "direction" "to" "peers" $policy.hubTo "ports" (list (include "secateur.port" (default "https://hub" .Values.hub.endpoint)))) }}
{{- end }}
{{- end }}

{{- /* Lists of peers for rules. */ -}}
{{- define "secateur.apiPeer" -}}
- podSelector:
    matchLabels:
      {{- include "secateur.selector" (dict "root" . "component" "api") | nindent 6 }}
{{- end }}

{{- define "secateur.testPeer" -}}
- podSelector:
    matchLabels:
      {{- include "secateur.selector" (dict "root" . "component" "test") | nindent 6 }}
{{- end }}

{{- define "secateur.rayPeer" -}}
- podSelector:
    matchLabels:
      ray.io/cluster: {{ include "secateur.rayCluster" . }}
{{- end }}
