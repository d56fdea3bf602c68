{{- define "muster.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "muster.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "muster.labels" -}}
{{ include "muster.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "muster.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "muster.keySecret" -}}
{{ .Values.masterKey.existingSecret | default (printf "%s-master-key" (include "muster.name" .)) }}
{{- end -}}

{{- define "muster.check" -}}
{{- if not .Values.publicUrl -}}
{{- fail "publicUrl is required: where agents and people reach the servers, such as https://muster.example.com" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database.existingSecret) -}}
{{- fail "several replicas need PostgreSQL: name a secret with database.existingSecret, or set replicas to 1" -}}
{{- end -}}
{{- if and .Values.bus.existingSecret (not .Values.database.existingSecret) -}}
{{- fail "bus.existingSecret is for several servers on one database: name database.existingSecret, too" -}}
{{- end -}}
{{- end -}}
