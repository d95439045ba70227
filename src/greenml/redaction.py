"""Redaction: what may be shown of a text. Secrets become ``***``; what would steer a terminal becomes a space.

A text is a secret for one of two reasons: the name that it stands under means one (``hf_token``, ``password``), or its
shape does whatever the name (``hf_...``, a JWT, a URL with a password). Numbers, booleans and None are never secrets.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

MASK = "***"

# Names. A name is split into words at its signs and its capitals: "hfToken", "HF_TOKEN" and "--hf-token" are alike.

_WORD = r"[A-Z]+(?![^\W\d_A-Z])|[A-Z]?[^\W\d_A-Z]+|\d+"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that mean a secret wherever they stand in a name.
_ALWAYS = _set(
    "password passwords passwd passphrase passphrases passcode passwort secret secrets credential credentials"
    " creds authorization apikey apikeys passkey passkeys kennwort senha pswd psswd passwrd"
    " contrase\u00f1a contrasena wachtwoord motdepasse heslo has\u0142o haslo adgangskode l\u00f6senord salasana"
    " \u043f\u0430\u0440\u043e\u043b\u044c \u5bc6\u7801 \u5bc6\u78bc \u30d1\u30b9\u30ef\u30fc\u30c9"
    " \ube44\ubc00\ubc88\ud638"
)
# Words that mean a secret as the last of a name.
_LAST = _set(
    "pwd pw auth oauth jwt bearer cookie cookies sas dsn connstr webhook psk otp totp pincode mnemonic cvv cvc"
)
# A name that ends so is of something about the secret: where it lies, how long it is.
_ABOUT = _set(
    "name names file files filename path paths dir folder type kind length len size limit count policy field"
    " fields column columns env var variable url uri endpoint host provider required enabled method mode scheme"
    " format expiry expires ttl prefix suffix level version strategy backend manager store error errors accuracy"
    " dataset datasets corpus task game score scores rate ratio loss strength sharing helper"
)
# Fields of a trace's lines that hold what people and programs gave.
_GIVEN_FIELDS = _set("name settings command metrics params facts found note text phase error")
# Words that add nothing to what a name means.
_NEUTRAL = _set(
    "value values str text plain b64 base64 encoded raw hex hash prod dev staging default current old new"
    " backup live primary secondary read write ro rw"
)
_KEY_OF = _set(
    "api access secret account shared private subscription signing sign encryption encrypt decryption master auth"
    " service storage license licence ssh deploy admin app hf hub huggingface wandb openai anthropic claude gemini"
    " azure aws google gcp cohere mistral comet neptune clearml kaggle client consumer session host server webhook"
    " hmac fernet rsa aes pem tls ssl gpg pgp openrouter groq together replicate pinecone langsmith langchain"
    " sendgrid stripe twilio datadog dd ingest ngc nvidia runpod instrumentation functions cosmos maps write token"
    " jwt root watttime electricitymaps principal pass serpapi serper tavily voyage jina fireworks cerebras deepseek"
    " gpt lightning weaviate qdrant milvus recovery perplexity elevenlabs deepgram assemblyai exa brave"
    " fal dashscope supabase algolia"
)
_TOKENS_OF = _set(
    "access api auth oauth refresh hf hub bearer github gitlab wandb secret huggingface session security slack"
    " personal service deploy login client csrf"
)
# A token after one of these words is a piece of text, as tokenizers and trainers have them.
_TEXT_TOKEN = _set(
    "pad padding eos bos unk unknown sep separator cls class mask masked special additional added extra sentinel"
    " start end stop first last next prev previous new max min num n k top per by avg mean total each word subword"
    " sub byte char unit prompt prefix suffix middle infix fim placeholder initializer instance trigger concept"
    " modifier image audio video visual vision speech text patch register object query lang language target source"
    " src tgt task domain style control blank silence timestamp delimiter newline space empty null eot eod eoh boi"
    " eoi boa eoa bov eov begin think thinking reasoning thought turn assistant system tool function call header"
    " forced decoder encoder generated sampled draft input output label answer context doc document passage entity"
    " rare common latent compressed global local memory mem beacon pool pooling single multi fake original soft"
    " virtual oov stopping de pre re un inter cross row sos ignore ignored distill distillation dist number date dummy"
    " starting continuation page pagination"
    " yes no true false score logits positive negative neg good bad step rank cot eow sow bow"
    " void human speaker emotion frame pixel action reward noise eom eop semantic coarse fine codec quantizer bpe"
    " wordpiece unigram endoftext anchor learnable learned gist summary time pos position predicted unexpected"
    " to tik mtp split question str one"
)
_PASS_OF = _set(
    "vault become ansible"
    " db database user smtp mail email ftp sftp mysql pg postgres redis admin root sudo proxy http login mongo"
    " rabbitmq ssh ldap jdbc amqp mqtt imap my hf hub wandb"
)
_PAT_OF = _set("github gitlab gh git azure devops ado ext vsts")
_PINNED = _set("cpu cpus core cores thread threads numa process memory version dependency gpio data clock socket node")
_FLAGS = _set("use no needs require requires enable with skip has is")
_COUNTS = _set("num n count has")  # as the first of a name: it tells how many, or whether
# A last word that means a secret after some words, or unless it is after some.
_AFTER = {"tokens": _TOKENS_OF, "key": _KEY_OF, "keys": _KEY_OF, "pass": _PASS_OF, "pat": _PAT_OF, "pem": _set("key"),
          "tok": _set("access api auth bearer oauth refresh")}  # fmt: skip
_NOT_AFTER = {"token": _TEXT_TOKEN, "auth": _FLAGS, "oauth": _FLAGS, "pin": _PINNED | _FLAGS}
_COMPOUND = (
    r"\w*(?:password|passwd|passphrase|secret|apikey|credentials|connectionstring)|passw(?:or)?d\w+"
    r"|(?:db|my|mysql|pg|postgres|root|admin|user)pwd|(?:http|basic|proxy|api)auth|(?:key|store)pass"
)
_PAIRS = frozenset(
    [("connection", "string"), ("conn", "string"), ("connection", "str"), ("conn", "str"), ("auth", "header"),
     ("connection", "strings"), ("identity", "header"),
     ("webhook", "url"), ("webhook", "uri"), ("sas", "url"), ("sas", "uri"),
     ("auth", "data"), ("pass", "word"), ("pass", "phrase"), ("recovery", "code"), ("recovery", "codes"),
     ("backup", "codes"), ("pin", "code"), ("otp", "seed"), ("seed", "phrase"), ("recovery", "phrase")]
)  # fmt: skip
_UNREAL = frozenset(
    [
        "none",
        "null",
        "~",
        "true",
        "false",
        "",
        "...",
        "required",
        "missing",
        "invalid",
        "expired",
        "empty",
        "yes",
        "no",
        "on",
        "off",
        "str",
        "int",
        "bool",
        "bytes",
    ]
)  # written out: no text, so no secret
# transformers writes <HUB_TOKEN> for what it hides itself, and <your_token>; ${HF_TOKEN} and {{ token }} are filled in.
_PLACEHOLDER = (
    r"<(?:[A-Z_]+|your[\w -]{1,30})>|\$\{\{?\s*(?:oc\.env:|env:)?[A-Za-z_][\w.]*\s*\}?\}"
    r"|\$[A-Z]+(?:_[A-Z]+)+|\{\{\s*[\w.]+\s*\}\}"
)
_TEXT_PIECE = r"<\|?[\w/ -]{1,30}\|?>|\[[A-Z][A-Z0-9_]{1,20}\]|(?:[\u2581\u0120]|##)\w*"  # </s>, <|im_end|>, [CLS]
_VERSION = r"v?\d{1,4}(?:\.\d{1,8}){1,4}(?:[.+-]?[a-z]{1,5}\d{1,8})*"  # of a package: google-auth, oauthlib, tiktoken
_DIGEST_NAME, _DIGEST = r"(?:\b|_)(?:sha\d*|digest|checksum|integrity|hash)(?:\b|_)", r"[A-Za-z0-9+/]{86}=="


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Tell whether a name means that a text under it is a secret: ``hf_token`` does, ``pad_token`` does not."""
    words = [word.lower() for word in re.findall(_WORD, name)]
    if len(words) > 1 and ((words[-2], words[-1]) in _PAIRS or words[-3:] == ["mot", "de", "passe"]):
        return True
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in _NEUTRAL):
        words.pop()
    if not words:
        return False
    before, last = (words[-2] if len(words) > 1 else ""), words[-1]
    if (before, last) in _PAIRS:
        return True
    if len(words) > 1 and words[0] in _COUNTS:
        return False
    if last == "id" and before in {"secret", "key"}:  # VAULT_SECRET_ID, AWS_ACCESS_KEY_ID
        words.pop()
        before, last = (words[-2] if len(words) > 1 else ""), words[-1]
    if last in _ABOUT:
        return False
    return any(word in _ALWAYS for word in words) or _last_word_is_secret(before, last)


def _last_word_is_secret(before: str, last: str) -> bool:
    if last in _AFTER:
        return before in _AFTER[last]
    if last in _NOT_AFTER:
        return before not in _NOT_AFTER[last]
    return last in _LAST or _is_compound(last)


def _is_compound(word: str) -> bool:
    """Tell whether a secret's word ends in words that nobody set apart: hftoken, mysqlpassword, sharedaccesskey."""
    if re.fullmatch(_COMPOUND, word):
        return word != "passwordless"
    return any(
        word.endswith(end) and len(word) > len(end) and _last_word_is_secret(word[: -len(end)], end)
        for end in ("token", "pass")
    ) or (word.endswith("key") and any(word[:-3].endswith(name) for name in _KEY_OF if len(name) > 2))


# Shapes. Each with texts of which one stands in whatever has the shape, so that most text is looked through quickly.
# Patterns are text, which re compiles and keeps at the first use: most runs need few of them.

_LEFT = r"(?<![A-Za-z0-9])"
_SHAPES = {
    needle: _LEFT + (pattern.format(re.escape(needle)) if pattern.startswith("{}") else pattern)
    for needles, pattern in (
        ("hf_", r"hf_(?:[A-Za-z0-9]{16,}|(?=[A-Za-z]*\d)(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{8,})"),  # Hugging Face
        ("api_org_", r"api_org_[A-Za-z0-9]{16,}"),
        (
            "sk-",
            r"sk-(?:(?:ant|proj|or|svcacct|admin|lf|kimi)-[\w-]{8,}|[A-Za-z0-9]{16,}[\w-]*"
            r"|(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}|[0-9a-f]{8}-[0-9a-f-]{20,})",
        ),
        ("k_live_ k_test_ gsk_", r"(?:[spr]k_(?:live|test)_[A-Za-z0-9]{8,}|gsk_[A-Za-z0-9]{20,})"),  # Stripe, Groq
        ("whsec_", r"whsec_[\w+/=-]{16,}"),
        ("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{16,}"),  # GitHub
        ("github_pat_", r"github_pat_\w{16,}"),
        (
            "glpat- glptt- gldt- glrt- glrtr- glcbt- glft- glimt- glagent- glsoat- gloas- glffct-",
            r"gl(?:pat|ptt|dt|rt|rtr|cbt|ft|imt|agent|soat|oas|ffct)-[\w-]{16,}",
        ),  # GitLab
        ("xox", r"xox[a-z](?:\.xox[a-z])?-[\w-]{8,}"),  # Slack
        ("xapp-", r"xapp-\d-[\w-]{8,}"),
        ("AKIA ASIA ABIA ACCA", r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{12,}(?![A-Za-z0-9])"),  # AWS
        ("AIza", r"AIza[\w-]{30,}"),  # Google
        ("ya29.", r"ya29\.[\w-]{10,}"),
        ("GOCSPX-", r"GOCSPX-[\w-]{16,}"),
        ("1//0", r"1//0[\w-]{24,}"),
        ("LTAI", r"LTAI[A-Za-z0-9]{16,}"),  # Alibaba
        (
            "eyJ",
            r"(?:eyJ[\w-]{8,}(?:\.[\w-]*){2,4}|eyJhcGlf[\w+/-]{16,}=*)",
        ),  # JSON web tokens; Neptune's "api_address"
        ("npm_", r"npm_[A-Za-z0-9]{30,}"),
        ("pypi-", r"pypi-[\w-]{40,}"),
        ("SG.", r"SG\.[\w-]{16,}\.[\w-]{16,}"),  # SendGrid
        ("key-", r"(?<![\w-])key-[0-9a-f]{32}(?![0-9a-f])"),  # Mailgun
        ("r8_", r"r8_[A-Za-z0-9]{20,}"),  # Replicate
        ("xai- pplx- nvapi- tskey- dop_v1_ doo_v1_ dor_v1_", r"(?:xai|pplx|nvapi|tskey|do[opr]_v1)[-_][\w-]{20,}"),
        ("dapi dose dkea", r"{}[0-9a-f]{{32}}"),  # Databricks
        ("hvs. hvb. hvr.", r"hv[sbr]\.[\w-]{20,}"),  # Vault
        ("lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f_]{16,}"),  # LangSmith
        ("glsa_ glc_", r"gl(?:sa|c)_[\w=+/]{16,}"),  # Grafana
        ("dckr_pat_", r"dckr_pat_[\w-]{16,}"),
        ("sntry", r"sntry[su]_[\w=+/-]{16,}"),
        ("shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{24,}"),
        ("ATATT3x ATCTT3x", r"AT[AC]TT3x[\w=-]{16,}"),  # Atlassian
        ("dp.pt. dp.st.", r"dp\.[ps]t\.[\w.-]{16,}"),
        ("wandb_v1_", r"wandb_v1_\w{16,}"),
        ("ak- as-", r"a[ks]-[A-Za-z0-9]{22}(?![\w-])"),  # Modal
        ("8Q~ 7Q~", r"[A-Za-z0-9_.~-]{3}[78]Q~[\w.~-]{28,}"),  # Microsoft Entra
        ("AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[A-Z0-9]{16,}"),
        (":AA", r"\d{8,10}:AA[\w-]{30,}"),  # Telegram
        (
            "lin_api_ ntn_ figd_ sbp_ fw_ tgp_v1_ jina_ rpa_ pnu_ sb_secret_ esecret_ secret_ pcsk_ pscale_tkn_"
            " pscale_pw_ hf_oauth_ sess- csk- pa- tvly- xkeysib- PMAK- NRAK- CFPAT- AKCp8 cmVmdGtu EAACEdEose0cBA fm2_"
            " CCIPRJ_ CCIPAT_ bkua_ KGAT_ aio_ pul- rubygems_ CLOJARS_ sqp_ squ_ sqa_ lin_oauth_ xsmtpsib- snyk_uat."
            " sq0atp- sq0csp-",
            r"{}(?:[A-Za-z0-9]{{1,10}}[_.-])?(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{{20,}}[\w.-]*",
        ),  # Linear, Notion, Figma, Supabase, Together, Jina, RunPod, Prefect, Pinecone, Tavily, CircleCI ...
        ("GR1348941", r"GR1348941[\w-]{20}"),  # GitLab, of a runner
        ("dt0c01. dt0s01.", r"dt0[cs]01\.[A-Z0-9]{20,}\.[A-Z0-9]{40,}"),  # Dynatrace
        (".atlasv1.", r"[A-Za-z0-9]{10,}\.atlasv1\.[\w=-]{40,}"),  # Terraform Cloud
        ("-us", r"[0-9a-f]{32}-us\d{1,2}(?![\w-])"),  # Mailchimp
        ("SK", r"SK[0-9a-f]{32}(?![0-9A-Za-z])"),  # Twilio
        ("v1.0-", r"v1\.0-[0-9a-f]{24}-[0-9a-f]{40,}"),  # Cloudflare
        ("1/1", r"1/1\d{15}:[0-9a-f]{32}"),  # Asana
        ("ops_eyJ", r"ops_eyJ[\w+/-]{16,}=*"),  # 1Password
        ("s.", r"(?<![.\w])s\.(?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Z])[A-Za-z0-9]{24}(?![\w.])"),  # Vault, of old
        ("EAAA", r"EAAA[A-Za-z0-9_-]{40,}"),  # Square
        (
            "MD MT Mj Mz ND NT Nj Nz OD OT Oj Oz",
            r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}(?![\w.-])",
        ),  # Discord
        ("==", r"(?<![+/])(?<!sha512[-:=])[A-Za-z0-9+/]{86}==(?!=)"),  # 64 bytes: Azure storage, Cosmos DB
        ("IQoJb3JpZ2lu FwoGZXIvYXdz", r"{}[\w+/=-]{{40,}}"),  # AWS, for a session
        ("pat", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),  # Airtable
        ("AKID", r"AKID(?=[A-Za-z]*\d)[A-Za-z0-9]{32}(?![A-Za-z0-9])"),  # Tencent
        ("AQVN", r"AQVN(?=[\w-]*\d)[\w-]{35,}"),  # Yandex
        ("t1.9eu", r"t1\.9eu[\w.=-]{40,}"),
        ("JQQJ9", r"[A-Za-z0-9]{52}JQQJ9[9DH][A-Za-z0-9]{26}(?:[A-Za-z0-9]{2}==)?"),  # Azure OpenAI, other Azure AI
        ("AZDO", r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}"),  # Azure DevOps
        ("k_", r"sk_[0-9a-f]{48}(?![0-9a-f])"),  # ElevenLabs
        ("oy2", r"oy2[a-z0-9]{43}(?![A-Za-z0-9])"),  # NuGet
        ("NRAL", r"[0-9a-zA-Z]{36}NRAL(?![A-Za-z0-9])"),  # New Relic
        ("HRKU-", r"HRKU-[\w-]{36,}"),  # Heroku
        ("GOOG1", r"GOOG1[A-Z0-9]{20,}"),  # Google Cloud Storage
        ("ABSK", r"ABSK[A-Za-z0-9+/]{60,}=*"),  # AWS Bedrock
        ("amzn.mws.", r"{}[0-9a-f-]{{36}}"),
        ("access_token$", r"access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}"),  # PayPal
        ("re_", r"re_(?=\w*\d)(?=\w*[A-Z])[A-Za-z0-9]{8}_[A-Za-z0-9]{24}(?![A-Za-z0-9])"),  # Resend
    )
    for needle in needles.split()
}
_NEEDLES = "|".join(map(re.escape, sorted(_SHAPES, key=len, reverse=True)))
_PRIVATE_KEY = (
    r"(?s)-----?(?: |-)BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?(?: |-)-----?.*?"
    r"(?:-----?(?: |-)END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?(?: |-)----*|\Z)"
)
_WEBHOOK = (
    r"(https://(?:hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/"
    r"|(?:\w+\.)?discord(?:app)?\.com/api/webhooks/"
    r"|[\w.-]+\.webhook\.office\.com/|outlook\.office\.com/webhook/|api\.telegram\.org/bot"
    r"|hooks\.zapier\.com/hooks/catch/|maker\.ifttt\.com/"
    r"|open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/))[^\s\"'<>)]+"
)
_USER = r"(?<![\w])([A-Za-z][\w+.-]*)://(?:([^\s/?#\"'<>\\]+)@|([^\s/?#:@\"'<>]*:(?!\d{1,5}/)[^\s\"'<>@]*)@)"
# Schemes in which the part before "@" names a container; and those in which a name alone logs nobody in.
_CONTAINERS = frozenset(["abfs", "abfss", "wasb", "wasbs", "adl", "azureml"])
_LOGINS = frozenset(["http", "https", "ftp", "ftps", "redis", "rediss"])
_SIGNED = (
    r"(?i)((?:[?&;]|&amp;)(?:sig|signature|key|code|x-amz-signature|x-amz-security-token|x-amz-credential|x-goog"
    r"-signature|x-goog-credential)=)(?!\d{1,4}(?:[&\s\"'<>#]|\Z))[^&\s\"'<>]+|((?<![\w])sig=)(?=[^&\s\"']{16})[^&\s\"'<>]+"
)
_SCHEME = "(?i)" + _LEFT + r"(bearer|basic)(\s+)([\w.~+/-]{6,}=*)"
_WANDB = r"(?i)(wandb[^\n]{0,60}?)(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])"
_HEX40 = r"[0-9a-f]{40}"
_NETRC = r"(\b(?:machine\s+\S+|default)\s+(?:(?:login|account)\s+\S+\s+){0,2}password\s+)\S+"
# What a sentence says of a secret without telling it.
_SAID = (
    "required missing invalid incorrect wrong expired empty unset undefined needed unknown failed disabled enabled not"
    " no too never only always a an the in at of on for from used set stored kept hidden masked weak correct ok valid"
)
_SENTENCE = (
    r"(?i)(?:field required|(?:must|should) (?:be|not)|can ?not be|could not|please [a-z]|check [a-z]"
    r"|not (?:set|found|given|provided|valid|allowed)|expected [a-z])"
)
_WORDS = (
    r"""(?:[^\s,;"'}]|[ \t](?![\w.-]+\s?[=:]))+"""  # what a pass phrase or a mnemonic may be, written without quotes
)
_IS = (
    rf"(?i)(\bpass(?:word|wd|phrase)\s+(?:is|was)(?:\s*:)?\s+[\"']?)(?!(?:{'|'.join(_SAID.split())})[.,;!?]?(?:\s|\Z))[^\s\"',;]+"
    r"|(\b(?:api|access|secret)[ -]key\s+(?:is|was)\s+[\"']?)(?=[^\s\"']*\d)[^\s\"',;]+"
    r"|(\b(?:identified\s+by|password)\s+[\"'])[^\"']+|(\bpassword\s+)(?=[^\s\"',;]*\d)(?=[\d]*[A-Za-z])[^\s\"',;]{6,}"
    r"|(\b(?:api[ -]?key|token|password|secret)\s+(?:provided|given|supplied)\s*:\s*[\"']?)[^\s\"',;]+"
)
_HEADER = (
    r"(?i)((?:proxy-)?authorization|(?:set-)?cookie)(\\*[\"']?\s*[:=]\s*)(\\*[\"'])?"
    r"((?:=\s?\"[^\"\r\n]*\"|[^\"'\r\n\\]|\\ )+)"
)
# What some programs take for a password, by an option of one letter: as text, and as the words of a command.
_TOOLS = (
    r"(\bcurl\b[^\n]{0,200}?\s(?:-u[ =]?|--user[ =]|--proxy-user[ =])[\"']?)(?!\d+:\d)[^\s:\"']+:(?!//)[^\s\"']+"
    r"|(\b(?:sshpass\s+|(?:docker|podman|oras|skopeo|registry)\s+login\b[^\n]{0,200}?\s)-p[ =]?)[^\s]+"
    r"|(\bredis-cli\b[^\n]{0,200}?\s(?:-a|--pass)\s)[^\s]+|(\bmysql\w*\b[^\n]{0,200}?\s-p)(?=[^\s-])[^\s]+"
    r"|(\bset\s+api-key\s)[^\s]+|(\b(?:az\s+login|twine|mongo\w*)\b[^\n]{0,200}?\s-p[ =])[^\s]+"
    r"|(\bldap\w+\b[^\n]{0,200}?\s-w\s)[^\s]+|(\b(?:(?:un)?zip|sqlcmd|bcp)\s[^\n]{0,200}?-P\s)[^\s]+"
    r"|(\b7z\w?\s[^\n]{0,200}?\s-p)[^\s]+"
    r"|(\blftp\b[^\n]{0,200}?\s-u\s+[^\s,]+,)[^\s]+|(\s-(?:pass|passin|passout)\s+pass:)[^\s]+"
    r"|(\bsmbclient\b[^\n]{0,200}?\s-U\s+[^\s%]+%)[^\s]+|(\bauthtoken\s)[^\s]+"
)
_SETTERS = frozenset(["config", "configure", "modify", "setenv", "setx"])  # git config user.password ...
_TAKEN_BY = {
    "-p": r"sshpass|login|twine|mongo\w*",
    "-a": r"redis-cli",
    "-w": r"ldap\w+",
    "-P": r"(?:un)?zip|sqlcmd|bcp",
}
_LISTED = r"""(["'])(--?[A-Za-z][\w.-]*)\1(,\s*)(["'])([^"'\n]*)\4"""  # ['--password', '...']
# ('token', '...'), setdefault("TOKEN", "..."); a name and its value beside each other, in XML, YAML, Python and JSON;
# ENV TOKEN ...; and TOKEN%3D..., as an address within an address is written.
_TWO = r"""(\([bBuU]?(["']))([\w.-]+)(\2,\s*[bBuU]?(["']))((?:(?!\5)[^\n])+)(?=\5\s*,?\s*\))"""
_BESIDE = (
    r"""(?i)(\b(?:name|key)\\*["']?\s*[:=]\s*\\*["']?)([\w.-]+)(\\*["']?[,\s]+\\*["']?value\\*["']?\s*[:=]\s*\\*)"""
    r"""("[^"\n]*|'[^'\n]*|[^\s,}"'][^\s,}]*)"""
)
_SETTING = (
    r"(\b(?:ENV|setenv|setx|set\s+-\w+|configure\s+set|config(?:\s+--\w+|\s+set)*|modify(?:\s+--\w+)*\s+[\w.-]+)\s+)"
    r"([\w.-]+)(\s+)(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'=]\S*)"
)
_ENCODED = r"(?i)((?:%26|%3B|%3F|(?<![\w.%-])))([a-z][\w.-]{0,99})(%3D)((?:(?!%26|%3B)[^\s&\"'<>])+)"
_ELEMENT = r"<([A-Za-z_][\w:.-]*)([^<>]*)>([^<>]+)</"
_PYDANTIC = r"(?m)^([\w.]+)(\n[^\n]*\binput_value=)([^\n]+?)(?=, input_type=)"
_PUTTY = r"(Private-Lines: \d+\r?\n)[^:]+(?=Private-MAC|\Z)"
_ORACLE = r"(jdbc:oracle:\w+:)[^/\s@:]+/[^\s@]+@"
# Any other token: a word, then 32 letters and digits, mixed.
_MIXED = (
    _LEFT + r"((?!sha\d)[A-Za-z][A-Za-z0-9]{1,11}[_-](?:[a-z0-9]{1,8}[_-])?)(?=[a-z\d]*[A-Z])(?=[A-Z\d]*[a-z])"
    r"(?=(?:[A-Za-z]*\d){4})[A-Za-z0-9]{32,}"
)
# name=value, name: value, "name": "value". A bare value ends at a space, a quote, or a sign that a next name follows.
_NAME = (
    r"""(?P<name>(?<![\w.-])(?:(?i:api|access|secret|account|private|client|connection)\ (?i:key|token|secret|string)"""
    r"""|(?i:mot\ de\ passe)"""
    r"""|-{0,2}[^\W\d][\w.-]{0,99}))"""
    r"""(?P<sign>(?P<quoted>\\*["'`])?\]?(?:\*\*)?[ \t\u00a0]{0,40}(?:=>|:=|={1,3}|:\*\*(?!\*)|[:\uff1a])"""
    r"""(?:</\w{1,6}>)?\s{0,3}"""
    r"""(?:(?:&?str|string|String|Optional\[str\]|str \| None)\s=\s)?)"""
)
_VALUE = (
    r"""[|>][+\-\d]{0,2}[ \t]*(?:\r?\n(?:[ \t]+[^\r\n]*|(?=\r?\n)))+"""
    r"""|[!&]\w[\w.-]*[ \t]+(?:"[^"\n]*"|'[^'\n]*'|[^\s"']+)"""  # YAML's tag or anchor, and the value behind it
    r"""|[bBuUrRfF]{0,2}(?:\"{3}(?s:.*?)\"{3}|'{3}(?s:.*?)'{3})"""
    r"""|[bBuUrRfF]{1,2}(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)|"""
    r"""\\+"(?:.*?)\\+"|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.|'')*'?"""
    # several, in brackets; or lines of YAML that are set in below the name
    r"""|[\[({](?=\s*["'\[({A-Za-z])(?:[^\[\](){}]|[\[({][^\[\](){}]{0,500}[\])}]){0,2000}[\])}]"""
    r"""|[\[({](?=\s*["'\[({A-Za-z])[^\n]*"""
    r"""|(?:(?<=\n )|(?<=\n  )|(?<=\n\t)|(?<=\n)(?=-))[ \t]*(?:-[ \t]|[\w.-]+:[ \t])[^\r\n]*"""
    r"""(?:\r?\n(?:[ \t]+|-[ \t])[^\r\n]*)*"""
    # a call, or an entry of a mapping, whole
    r"""|[\w.]{1,60}(?:[(\[](?:[^()\[\]\n]|[(\[][^()\[\]\n]{0,200}[)\]]){0,500}[)\]])+(?=[\s,;)\]}]|\Z)"""
    rf"""|(?:{_PLACEHOLDER})(?![\w$@#!%^*+/-])"""
    r"""|(?:[^\s&;,"'}]|\}(?=[\w$@#!%^*+/-])|[,&;](?!\s|$|[\w.-]+\\*["']?\s*[=:]))+"""
)
_OPTION = r"""(?<![\w-])(--?[A-Za-z][\w.-]*)((?:\s|\\\r?\n)+)("[^"]*"|'[^']*'|[^\s"'\\-][^\s]*)"""
_PLAIN_NUMBER = r"(?i)[-+]?[\d.]+(?:e[-+]?\d+)?"
# Variables whose values are masked in a command whatever their length and look.
_OWN_VARIABLES = ("ELECTRICITY_MAPS_TOKEN", "WATTTIME_USERNAME", "WATTTIME_PASSWORD")


def redact(value: Any, name: str = "") -> Any:  # noqa: ANN401  JSON of any kind
    """Return JSON-like data with the secrets in it masked; the same object where there is none.

    Args:
        value: a text, number, list or mapping, nested as it may be.
        name: that it stands under.
    """
    if isinstance(value, str):
        return _redact_named(value, name)
    if isinstance(value, Mapping):
        return _redact_mapping(value, name)
    if isinstance(value, list | tuple):
        return _redact_list(value, name)
    return value


def _redact_named(text: str, name: str) -> str:
    if not text or text == MASK:
        return text
    if name and is_secret_name(name):
        return text if re.fullmatch(_PLACEHOLDER, text) or _is_known(name, text) else MASK
    if re.fullmatch(_HEX40, text) and "wandb" in name.lower() and not re.search("commit|sha|hash|git", name.lower()):
        return MASK
    if re.search(_DIGEST_NAME, name.lower()) and re.fullmatch(_DIGEST, text):
        return text
    return redact_text(text)


def _redact_mapping(values: Mapping[Any, Any], name: str) -> Any:  # noqa: ANN401
    """Redact a mapping; what is nested under a secret's name is secret, as is the value of a name beside it."""
    inherited = name if name and is_secret_name(name) else ""
    # {"name": "HF_TOKEN", "value": ...}, as Kubernetes and AzureML write variables
    named = {str(key).lower(): word for key, word in values.items() if isinstance(word, str)}
    beside = next((named[key] for key in ("name", "key", "parameterkey") if key in named), "")
    made: dict[Any, Any] = {}
    for key, value in values.items():
        under = inherited or (
            beside if str(key).lower() in ("value", "parametervalue") and is_secret_name(beside) else str(key)
        )
        under = "kaggle_key" if key == "key" and values.keys() == {"username", "key"} else under  # kaggle.json
        made[redact_text(key) if isinstance(key, str) else key] = redact(value, under)
    return values if made == values and len(made) == len(values) else made


def _redact_list(values: Sequence[Any], name: str) -> Any:  # noqa: ANN401
    texts = [value for value in values if isinstance(value, str)]
    made: list[Any]
    if name and is_secret_name(name):
        made = [redact(value, name) for value in values]
    elif len(texts) == len(values) and any(text.startswith("-") for text in texts):
        made = redact_command(texts)
    elif len(values) == 2 and texts and values[0] == texts[0] and is_secret_name(texts[0]):
        made = [values[0], redact(values[1], texts[0])]
    else:
        made = [redact(value, name) for value in values]
    return values if list(values) == made else made


def redact_text(text: str) -> str:
    """Return a text with its secrets masked: those with the shape of one, and those after a secret's name."""
    if len(text) < 5:  # no secret, with a name before it, is shorter
        return text
    if text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(text)
            made = redact(content)
            return text if made == content else json.dumps(made, ensure_ascii=False)
    for secret in _environment_secrets:
        text = text.replace(secret, MASK)
    for needle in set(re.findall(_NEEDLES, text)):
        text = re.sub(_SHAPES[needle], MASK, text)
    for needle, pattern, replacement in _STEPS:
        if needle in text:
            text = re.sub(pattern, replacement, text)
    return _mask_pairs(re.sub(_HEADER, _without_header, text)) if any(sign in text for sign in "=:\uff1a") else text


def _without_login(match: re.Match[str]) -> str:
    scheme, login = match[1], match[2] or match[3]
    if scheme.lower() in _CONTAINERS or login == MASK:
        return match[0]
    if ":" not in login and (scheme.lower().split("+")[-1] not in _LOGINS or login == "git"):
        return match[0]
    return f"{scheme}://{MASK}@"


def _without_scheme(match: re.Match[str]) -> str:
    """Mask what follows "Bearer" or "Basic", unless it is a word of a sentence."""
    text = match[3]
    if match[1].lower() == "bearer":
        secret = any(sign.isdigit() for sign in text) or (len(text) >= 16 and not text.islower())
    else:
        try:
            secret = b":" in base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            secret = False
    return f"{match[1]}{match[2]}{MASK}" if secret else match[0]


def _without_header(match: re.Match[str]) -> str:
    return match[0] if match[4].strip().lower() in _UNREAL else f"{match[1]}{match[2]}{match[3] or ''}{MASK}"


def _without_element(match: re.Match[str]) -> str:
    name = match[1].rpartition(":")[2]
    secret = is_secret_name(name) and not _harmless(name, match[3].strip())
    return f"<{match[1]}{match[2]}>{MASK}</" if secret else match[0]


def _without_input(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{MASK}" if is_secret_name(match[1]) else match[0]


def _without_second(match: re.Match[str]) -> str:
    begin, name, between, value = match.group(1), match.group(3), match.group(4), match.group(6)
    secret = is_secret_name(name) and not _harmless(name, value)
    return f"{begin}{name}{between}{MASK}" if secret else match[0]


def _without_value(match: re.Match[str]) -> str:
    begin, name, between, value = match.groups()
    bare = value.strip("\"'")
    if not bare or not is_secret_name(name) or _harmless(name, bare):
        return match[0]
    return f"{begin}{name}{between}{value.replace(bare, MASK)}"


def _without_listed(match: re.Match[str]) -> str:
    quote, name, comma, other, value = match.groups()
    secret = is_secret_name(name) and value and not value.startswith("-") and not _harmless(name, value)
    return f"{quote}{name}{quote}{comma}{other}{MASK}{other}" if secret else match[0]


def _without_wandb_key(match: re.Match[str]) -> str:
    return match[0] if re.search("commit|sha|rev|hash|git", match[1], re.IGNORECASE) else f"{match[1]}{MASK}"


def _after_its_name(match: re.Match[str]) -> str:
    return f"{next(group for group in match.groups() if group)}{MASK}"


def _without_option(match: re.Match[str]) -> str:
    secret = is_secret_name(match[1]) and not _harmless(match[1], match[3].strip("\"'"))
    return f"{match[1]}{match[2]}{MASK}" if secret else match[0]


def _mask_pairs(text: str) -> str:
    """Mask the value after each name that means a secret."""
    parts, end = [], 0
    for match in re.finditer(_NAME, text):
        name, sign = match["name"], match["sign"]
        if match.start() < end or not is_secret_name(name):
            continue
        after = re.compile(_VALUE).match(text, match.end())
        value = after[0] if after is not None else ""
        if value and not set(value) & set("\"'\\|>") and re.search("phrase|mnemonic", name.lower()):
            value = re.match(_WORDS, text[match.end() :])[0].rstrip()  # type: ignore[index]  # it begins with a word
        bare = value.lstrip("|>+-0123456789 \t\r\n") if "\n" in value and value[0] in "|>" else value
        if re.match(r"[bBuUrRfF]{1,2}[\"']", bare):
            bare = bare.lstrip("bBuUrRfF")
        bare = bare.strip("\\\"'")
        number = match["quoted"] and bare == value and re.fullmatch(_PLAIN_NUMBER, bare)
        # A parser's complaint: "unexpected token: else"
        word = sign.strip(" *`") == ":" and name.lower() == "token" and (
            (bare.isalpha() and bare.islower()) or _last_word(text[: match.start()]) in _TEXT_TOKEN
        )  # fmt: skip
        # A sentence about it: "api_key: must be set"
        said = sign == ": " and re.match(_SENTENCE, text[match.end() :]) is not None
        empty = "\n" in sign and re.fullmatch(r"[\w.-]+:", bare) is not None  # YAML: the next line is another name's
        resource = sign == ":" and re.search(r"\barn:[\w:-]*:\Z", text[: match.start()]) is not None
        if not bare or number or word or said or empty or resource or _harmless(name, bare):
            continue
        start = match.end() + value.index(bare)
        parts += [text[end:start], MASK]
        end = start + len(bare)
    return "".join([*parts, text[end:]])


def _last_word(text: str) -> str:
    return re.sub(r".*?(\w*)\s?\Z", r"\1", text[-30:], flags=re.DOTALL).lower()


def _is_known(name: str, value: str) -> bool:
    """Tell whether a value under a secret's name is what else stands under such a name.

    That is a piece of a tokenizer's text (``user_token``), the version of a package (``google-auth``), the file of
    credentials, or the working directory (``PWD``).
    """
    known = name.lower()
    if "tok" in known and re.fullmatch(_TEXT_PIECE, value):
        return True
    if re.search("auth|token|jwt|storage", known) and re.fullmatch(_VERSION, value):
        return True
    if known.endswith("credentials"):
        return re.fullmatch(r"[/~.][\w./~-]*\.\w{2,5}", value) is not None
    return known in {"pwd", "oldpwd"} and re.match(r"[/~]|[A-Za-z]:[\\/]", value) is not None


def _harmless(name: str, value: str) -> bool:
    """Tell whether a value that is written out is none: None, a flag, or how many tokens."""
    if value == MASK or re.fullmatch(_PLACEHOLDER, value) is not None or _is_known(name, value):
        return True
    if re.fullmatch(r"[\[({]+[\])}]*", value):
        return True
    plain = value.rstrip("`)]};:!?.,").lower() or value  # the end of a sentence or call, not of the value
    if plain in _UNREAL or plain == MASK or value.lower() in _UNREAL:
        return True
    return (
        "token" in name.lower() and re.fullmatch(r"[\[(]?-?\d{1,6}", plain) is not None
    )  # "token=128", "token: [1, 2]"


def redact_command(words: Sequence[str]) -> list[str]:
    """Return a command line with its secrets masked, as of ``--hf-token X``, ``HF_TOKEN=X`` and ``curl -u me:X``."""
    _read_environment()
    known = [key for name in _OWN_VARIABLES if len(key := os.environ.get(name, "").strip()) >= 8]
    shown: list[str] = []
    masks_next = False
    for position, given in enumerate(words):
        word = given
        for key in known:
            word = word.replace(key, MASK)
        name, equals, value = word.partition("=")
        if masks_next and not word.startswith("-"):
            shown.append(word if _harmless(words[position - 1], word) else MASK)
            masks_next = False
            continue
        masks_next = False
        if equals and value and re.fullmatch(r"[-+~]{0,2}[\w.@/-]+", name) and is_secret_name(name):
            shown.append(word if _harmless(name, value.lstrip("=")) else f"{name}={MASK}")
            continue
        if equals and name in {"--user", "--proxy-user"} and _is_login(value, words[:position]):
            shown.append(f"{name}={MASK}")
            continue
        if (hidden := _of_a_tool(word, words[:position])) is not None:
            masks_next = not hidden
            shown.append(hidden or word)
            continue
        if word.startswith("-") and not equals:
            user = word in {"-u", "--user"} and _is_login("".join(words[position + 1 : position + 2]), words[:position])
            masks_next = user or is_secret_name(word)
        masks_next = masks_next or (not _SETTERS.isdisjoint(words[:position]) and _is_set(word))
        under = word.lstrip("-").partition("=")[2] if equals else word
        if equals and under and "wandb" in name.lower() and re.fullmatch(_HEX40, under):
            shown.append(f"{name}={MASK}")
        elif re.fullmatch(_HEX40, word) and "***" in re.sub(
            _WANDB, _without_wandb_key, " ".join(words[max(0, position - 3) : position + 1])
        ):
            shown.append(MASK)
        else:
            shown.append(redact_text(word))
    return shown


def _is_login(word: str, before: Sequence[str]) -> bool:
    """Tell whether an option's value is a user with a password; a container's is a user and a group."""
    containers = {"docker", "podman", "nerdctl"}.intersection(earlier.rpartition("/")[2] for earlier in before)
    return not containers and re.fullmatch(r"(?!\d+:\d+\Z)[^:]*:.+", word, re.DOTALL) is not None


def _is_set(word: str) -> bool:
    """Tell whether a word, after ``config`` and the like, is the name of a secret, so that the next is its value."""
    return re.fullmatch(r"\w[\w.-]*", word) is not None and is_secret_name(word)


def _of_a_tool(word: str, before: Sequence[str]) -> str | None:
    """Return what to show of an option of one letter that takes a password; "" where that is the next word."""
    if word.startswith("pass:") and before and before[-1] in {"-pass", "-passin", "-passout"}:  # openssl's
        return f"pass:{MASK}"
    if word[:2] not in _TAKEN_BY and word[:2] != "-u":
        return None
    names = {earlier.rpartition("/")[2] for earlier in before}
    if word.startswith("-u") and ":" in word and "curl" in names:
        return f"-u{MASK}"
    if word in _TAKEN_BY:
        return "" if any(re.fullmatch(_TAKEN_BY[word], name) for name in names) else None
    if word.startswith("-p") and any(re.fullmatch(r"mysql.*|sshpass|7zr?a?", name) for name in names):
        return f"-p{MASK}"
    return None


_environment_secrets: list[str] = []


def _read_environment() -> None:
    """Keep the values of this process's variables that are secrets, where they are too long and odd to be words."""
    values = (os.environ[name] for name in os.environ if is_secret_name(name))
    _environment_secrets[:] = [
        text for text in values if len(text) >= 12 and "/" not in text and re.search(r"\d", text)
    ]


_read_environment()


# In order, each where its first text is in what is looked through.
_STEPS: tuple[tuple[str, str, str | Callable[[re.Match[str]], str]], ...] = (
    ("PRIVATE KEY", _PRIVATE_KEY, MASK),
    ("://", _WEBHOOK, rf"\1{MASK}"),
    ("://", _USER, _without_login),
    ("=", _SIGNED, lambda match: (match[1] or match[2]) + MASK),
    ("wandb", _WANDB, _without_wandb_key),
    ("WANDB", _WANDB, _without_wandb_key),
    (" ", _SCHEME, _without_scheme),
    ("password", _NETRC, rf"\1{MASK}"),
    (" ", _IS, _after_its_name),
    (" -", _TOOLS, _after_its_name),
    ("api-key ", _TOOLS, _after_its_name),
    ("authtoken ", _TOOLS, _after_its_name),
    ("--", _LISTED, _without_listed),
    ("(", _TWO, _without_second),
    ("value", _BESIDE, _without_value),
    ("Value", _BESIDE, _without_value),
    ("ENV ", _SETTING, _without_value),
    ("set -", _SETTING, _without_value),
    ("setenv ", _SETTING, _without_value),
    ("setx ", _SETTING, _without_value),
    ("config ", _SETTING, _without_value),
    ("configure ", _SETTING, _without_value),
    ("modify ", _SETTING, _without_value),
    ("%3D", _ENCODED, _without_value),
    ("</", _ELEMENT, _without_element),
    ("input_value=", _PYDANTIC, _without_input),
    ("Private-Lines", _PUTTY, rf"\1{MASK}\n"),
    ("jdbc:oracle", _ORACLE, rf"\1{MASK}@"),
    ("_", _MIXED, rf"\1{MASK}"),
    ("-", _MIXED, rf"\1{MASK}"),
    ("-", _OPTION, _without_option),
)


def redact_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of a trace, or its header, with the secrets masked in what people and programs gave."""
    made = dict(line)
    for name in made.keys() & _GIVEN_FIELDS:
        words = made[name] if name == "command" and isinstance(made[name], list) else None
        texts = words is not None and all(isinstance(word, str) for word in words)
        made[name] = redact_command(made[name]) if texts else redact(made[name])
    return made


class RedactingFilter(logging.Filter):
    """Masks the secrets in what a logger says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record in place; let all pass."""
        text = record.getMessage()
        made = redact_text(text)
        if made != text:
            record.msg, record.args = made, ()
        return True


# What may be shown: text without characters that steer a terminal or are none.

_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def printable_lines(text: str) -> str:
    """Return a text with its line breaks, and spaces for what would steer a terminal: escapes, bells, turned text.

    Halves of characters, which UTF-8 has not, become spaces too.
    """
    return "\n".join(map(_clean, text.split("\n")))


def printable_line(text: str) -> str:
    """Return a text on one line, without what would steer a terminal."""
    return " ".join(_clean(text).split())


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


def csv_cell(value: Any) -> Any:  # noqa: ANN401  a text or a number
    """Return a value as a cell of a CSV file; before a text that a spreadsheet would run as a formula, an apostrophe.

    Numbers stay numbers, also those that are written as text.

    Source: OWASP, CSV injection (= + - @, tab and carriage return at the start, and their full-width forms).
    """
    if not isinstance(value, str):
        return value
    text = printable_line(value)
    if value[:1] not in _FORMULA and text[:1] not in _FORMULA:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
