{{- define "peerpods.namespace" -}}
{{ .Values.namespace }}
{{- end }}

{{- define "peerpods.image" -}}
{{- if contains "@" .Values.image.repository -}}
{{ .Values.image.repository }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "peerpods.peerPodConfig" -}}
apiVersion: confidentialcontainers.org/v1alpha1
kind: PeerPodConfig
metadata:
  name: peerpods
spec:
  {{- toYaml .Values.peerPodConfig | nindent 2 }}
{{- end }}

{{- define "peerpods.labels" -}}
app.kubernetes.io/name: peerpods
app.kubernetes.io/part-of: peerpods
{{- end }}

{{- /* Mistakes that a schema cannot say in words. */ -}}
{{- define "peerpods.check" -}}
{{- range $name, $value := .Values.config }}
{{- if regexMatch "(SECRET|PASSWORD|PASSWD|PRIVATE_KEY|ACCESS_KEY|API_KEY|APIKEY|TOKEN)" $name }}
{{- fail (printf "config.%s looks like a secret, and values of a chart are readable in the cluster: put it into the Secret %s (docs/install.md)" $name $.Values.peerPodConfig.cloudSecretName) }}
{{- end }}
{{- if eq $name "CLOUD_PROVIDER" }}
{{- fail "config.CLOUD_PROVIDER: set `provider` instead" }}
{{- end }}
{{- end }}
{{- if and .Values.image.tag (contains "@" .Values.image.repository) }}
{{- fail "image.tag and a digest in image.repository exclude each other: leave one out" }}
{{- end }}
{{- if eq .Values.image.tag "latest" }}
{{- fail "image.tag: `latest` names no version, and nodes would run different ones: give a version" }}
{{- end }}
{{- end }}
