"""Redaction: what is a secret never survives, and what only looks like one is kept as it is."""

from __future__ import annotations

import base64
import collections
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenml
from greenml import sinks
from greenml.record import file as record_file
from greenml.record import importers
from greenml.redaction import MASK, is_secret_name, redact, redact_command, redact_line, redact_text
from greenml.run import exit_hooks

# fmt: off
SECRET_WORDS = """
hf_token hub_token HF_TOKEN hfToken HFToken token access_token use_auth_token push_to_hub_token id_token refresh_token
bearer_token github_token MLFLOW_TRACKING_TOKEN session_token X-Auth-Token PRIVATE-TOKEN x-vault-token bot_token hftoken
accesstoken api_tokens access_tokens api_key apikey ApiKey API-KEY OPENAI_API_KEY wandb_api_key wandb_key kaggle_key
comet_api_key x-api-key secret_key access_key aws_secret_access_key aws_access_key_id account_key AccountKey
SharedAccessKey subscription_key Ocp-Apim-Subscription-Key private_key signing_key encryption_key ssh_key api_keys
password db_password passwd PGPASSWORD MYSQL_PWD password1 user_password_hash passwords passphrase ssl_passphrase
db_pass smtp_pass secret client_secret clientSecret secrets vault_secret_id MODAL_TOKEN_SECRET credential credentials
authorization Proxy-Authorization auth basic_auth connection_string AZURE_STORAGE_CONNECTION_STRING connectionString
sas sas_token sas_url cookie set-cookie jwt bearer dsn github_pat webhook_url slack_webhook config.hub.token
private_key_pem pass_phrase passkey pass_key pass_word pw db_pw smtp_pw hf_pass otp recovery_codes seed_phrase
sqlalchemy_conn_str ConnectionStrings servicePrincipalKey serpapi_key mot_de_passe kennwort contrase\u00f1a senha
pin card_pin USER_PIN pinCode pincode wallet_mnemonic otp_seed cvv
hf_token_old HF_TOKEN_BACKUP api_key_primary stripe_key_live ansible_become_pass vault_pass recovery_key gpt_key
weaviate_key IDENTITY_HEADER auth_tok api_tok pswd motdepasse wachtwoord contrasena
hf_token_read hub_token_write storepass keypass FAL_KEY SUPABASE_KEY
\u5bc6\u7801 \u30d1\u30b9\u30ef\u30fc\u30c9
"""
PLAIN_WORDS = """
tokenizer_name tokenizer max_new_tokens num_input_tokens num_tokens max_tokens total_tokens input_tokens tokens
tokens_per_second author authors author_name authority bucket_key key_padding_mask token_type_ids token_id pad_token
eos_token bos_token unk_token sep_token cls_token mask_token pad_token_id eos_token_id additional_special_tokens
decoder_start_token forced_bos_token placeholder_token initializer_token image_token stop_token first_token padToken
word_delimiter_token key keys primary_key sort_key cache_key label_key text_key metric_key query_key_value
key_value_proj
keypoints monkey keyboard hotkey secretary passing compass forward_pass n_pass pass passage pattern patience path sig
sigma signature seed session token_file password_file credentials_path api_key_env secret_name token_url key_size
hub_model_id learning_rate lr_scheduler_type group_by_length tokenized oauth_url use_auth encoder decoder batch_size
ignore_token distill_token dist_token sos_token number_token date_token human_token noise_token void_token dummy_token
speaker_token emotion_token frame_token pixel_token action_token reward_token num_secrets has_password wpw_loss
secret_santa_dataset secrets_dataset password_strength_dataset password_strength secret_sharing_task token_loss
pass_rate
tiktoken char_to_token next_mtp_token no_split_token question_token
eom_token eop_token codec_token semantic_token coarse_token bpe_token wordpiece_token anchor_token gist_token pos_token
summary_token time_token learned_token hf_tok tok old_tokens passes num_keys key_dim auth_free pad_token_old
credential.helper starting_token continuation_token page_token
yes_token no_token true_token false_token negative_token score_token step_token logits_token eow_token key_pass
pin_memory dataloader_pin_memory pin_memory_device cpu_pin core_pin version_pin use_pin pins spin pinned pincount
"""
# fmt: on
SECRET_NAMES, PLAIN_NAMES = SECRET_WORDS.split(), PLAIN_WORDS.split()
WORD = "hunter2"
HEX = "3e1f9a0b5c7d2468"
LONG = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9n"


def jwt() -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890", "name": "me"})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".s1g"


# Texts that hold a secret, and the part of each that may not survive.
SHAPES = {
    "Hugging Face": (f"hf_{LONG[:34]}", LONG[:16]),
    "Hugging Face in a sentence": (f"401 for hf_{LONG[:34]}, try again", LONG[:16]),
    "Hugging Face organisation": (f"api_org_{LONG[:34]}", LONG[:16]),
    "OpenAI": (f"sk-{LONG}", LONG),
    "OpenAI project": (f"sk-proj-{LONG[:20]}-{LONG[20:]}", LONG[20:]),
    "Anthropic": (f"sk-ant-api03-{LONG}-AA", LONG),
    "OpenRouter": (f"sk-or-v1-{LONG}", LONG),
    "Groq": (f"gsk_{LONG}", LONG),
    "Stripe": (f"sk_live_{LONG[:24]}", LONG[:24]),
    "GitHub": (f"ghp_{LONG[:36]}", LONG[:20]),
    "GitHub, of an app": (f"ghs_{LONG[:36]}", LONG[:20]),
    "GitHub, fine-grained": (f"github_pat_11AAAAAAA0{LONG}", LONG),
    "GitLab": (f"glpat-{LONG[:20]}", LONG[:20]),
    "Slack": (f"xoxb-123456789012-{LONG[:24]}", LONG[:24]),
    "Slack webhook": (f"https://hooks.slack.com/services/T00000000/B00000000/{LONG[:24]}", LONG[:24]),
    "Discord webhook": (f"https://discord.com/api/webhooks/123456/{LONG}", LONG),
    "Teams webhook": (f"https://x.webhook.office.com/webhookb2/{LONG}", LONG),
    "AWS": ("id AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    "AWS, for a session": ("ASIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    "Google": (f"AIza{LONG[:35]}", LONG[:35]),
    "Google, OAuth": (f"ya29.{LONG}", LONG),
    "JWT": (f"the answer was {jwt()}", jwt().split(".")[1]),
    "npm": (f"npm_{LONG[:36]}", LONG[:36]),
    "SendGrid": (f"SG.{LONG[:22]}.{LONG}", LONG),
    "Replicate": (f"r8_{LONG[:37]}", LONG[:37]),
    "NVIDIA": (f"nvapi-{LONG}", LONG),
    "Databricks": ("dapi3e1f9a0b5c7d24683e1f9a0b5c7d2468", "3e1f9a0b5c7d2468"),
    "Vault": (f"hvs.{LONG}", LONG),
    "Microsoft Entra": (f"abc8Q~{LONG[:34]}", LONG[:34]),
    "Azure storage key": (f"{(LONG * 3)[:86]}==", LONG),
    "Azure SAS": (f"https://x.blob.core.windows.net/c/b?sv=2022&sp=r&sig={LONG}%3D", LONG),
    "Azure connection string": (f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={WORD}==;Suffix=y", WORD),
    "SQL connection string": (f"Server=db;User Id=sa;Password={WORD};Encrypt=True", WORD),
    "signed S3 URL": (f"https://b.s3.amazonaws.com/k?X-Amz-Credential=x&X-Amz-Signature={WORD}", WORD),
    "Maps URL": (f"https://maps.example.org/api?key={WORD}&q=1", WORD),
    "URL query": (f"https://example.org/?a=1&access_token={WORD}#x", WORD),
    "URL with a login": (f"could not reach postgresql+psycopg2://me:{WORD}@db:5432/x", WORD),
    "URL with a slash in the password": (f"postgres://me:a/{WORD}@db/x", WORD),
    "URL with a password alone": (f"redis://:{WORD}@cache:6379/0", WORD),
    "URL with a token as user": (f"git+https://{WORD}@example.org/x.git", WORD),
    "bearer": (f"Bearer {WORD}", WORD),
    "bearer header": (f"{{'Authorization': 'Bearer {WORD}'}}", WORD),
    "basic header": (f"Authorization: Basic {base64.b64encode(b'me:x').decode()}", "bWU6eA"),
    "basic alone": (f"Basic {base64.b64encode(f'me:{WORD}'.encode()).decode()}", "bWU6"),
    "cookie": (f"Cookie: a={WORD}; b={WORD}", WORD),
    "private key": (f"-----BEGIN RSA PRIVATE KEY-----\n{LONG}\n-----END RSA PRIVATE KEY-----\n", LONG),
    "private key, cut off": (f"x -----BEGIN OPENSSH PRIVATE KEY-----\n{LONG}", LONG),
    "wandb": (f"wandb login {'3e1f9a0b5c7d2468' * 2}01234567", "3e1f9a0b5c7d2468"),
    "netrc": (f"machine api.wandb.ai login user password {WORD}", WORD),
    "JSON": (json.dumps({"lr": 1, "password": WORD}), WORD),
    "JSON within JSON": (json.dumps({"config": json.dumps({"auth": {"value": WORD}})}), WORD),
    "JSON, escaped in a text": (f"body was {json.dumps(json.dumps({'api_key': WORD}))}", WORD),
    "Python": (f"Config(lr=1, hub_token='{WORD} and more', n=2)", WORD),
    "YAML": (f"lr: 1\npassword: {WORD}\n", WORD),
    "environment": (f"export HF_TOKEN={WORD}; python train.py", WORD),
    "command": (f"python train.py --lr 1 --hf-token {WORD} --n 2", WORD),
    "os.environ": (f'os.environ["HF_TOKEN"] = "{WORD}"', WORD),
    "header of curl": (f"curl -H 'X-Api-Key: {WORD}' https://example.org", WORD),
    "prose": (f"the password is {WORD}", WORD),
    "prose with a name of two words": (f"Incorrect API key: {WORD}", WORD),
    "another provider's, known by its word": (f"tvly-dev-{LONG[:32]}", LONG[:32]),
    "Pinecone": (f"pcsk_{LONG[:6]}_{LONG}", LONG),
    "RunPod": (f"rpa_{LONG.upper()}", LONG.upper()),
    "Neptune": ("eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8vYXBwLm5lcHR1bmUuYWkifQ==", "YWRkcmVzcyI6"),
    "Mailchimp": ("3e1f9a0b5c7d24683e1f9a0b5c7d2468-us12", "3e1f9a0b5c7d2468"),
    "Twilio": ("SK3e1f9a0b5c7d24683e1f9a0b5c7d2468", "3e1f9a0b5c7d2468"),
    "Discord bot": ("MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs", "ZnCjm1XVW7"),
    "Terraform": (f"{LONG[:14]}.atlasv1.{LONG}{LONG[:20]}", LONG),
    "nobody's that is known": (f"acme_live_{LONG}", LONG),
    "digest header": ('Authorization: Digest username="me", response="6629fae49393a0"', "6629fae4"),
    "login of curl": (f"curl -u me:{WORD} https://example.org", WORD),
    "login of docker": (f"docker login -u me -p {WORD} registry", WORD),
    "sshpass": (f"sshpass -p {WORD} ssh me@h", WORD),
    "mysql": (f"mysql -u root -p{WORD} db", WORD),
    "JDBC of Oracle": (f"jdbc:oracle:thin:me/{WORD}@h:1521/x", WORD),
    "a list's text": (f"started ['train.py', '--password', '{WORD}']", WORD),
    "XML": (f"<db><password>{WORD}</password></db>", WORD),
    "bytes": (f"{{'api_key': b'{WORD}'}}", WORD),
    "three quotes": (f'password = """{WORD}"""', WORD),
    "YAML block": (f"lr: 1\npassword: |\n  {WORD}\n  {WORD}\nn: 2\n", WORD),
    "pydantic": (f"hub.token\n  Input should be ... [type=x, input_value='{WORD}', input_type=str]", WORD),
    "PuTTY": (f"Private-Lines: 1\nAAAA{WORD}\nPrivate-MAC: 00", WORD),
    "OpenAI's answer": (f"Incorrect API key provided: {WORD}. You can find", WORD),
    "prose, of several words": ("the password is correct-horse", "correct-horse"),
    "prose with a colon": (f"Your password is: {WORD}", WORD),
    "name of other letters": (f"\u043f\u0430\u0440\u043e\u043b\u044c: {WORD}", WORD),
    "login in brackets": (f"requests.get(u, auth=('me', '{WORD}'))", WORD),
    "list of Python": (f"Hub(api_keys=['x', '{WORD}'], lr=1)", WORD),
    "dict of Python": (f"secrets={{'a': {{'b': 'x'}}, 'c': '{WORD}'}} and", WORD),
    "list over lines": (f"passwords = [\n 'x',\n '{WORD}'\n]\nlr=1", WORD),
    "list of YAML": (f"api_keys:\n  - x\n  - {WORD}\nlr: 1", WORD),
    "list of YAML, in line": (f"api_keys: [x, {WORD}]\nlr: 1", WORD),
    "mapping of YAML": (f"credentials:\r\n    user: me\r\n    key: {WORD}\r\nlr: 1", WORD),
    "set in columns": (f'hf_token            = "{WORD}"', WORD),
    "command over lines": (f"python train.py --hf-token \\\n  {WORD} \\\n  --lr 1", WORD),
    "setting of aws": (f"aws configure set aws_secret_access_key {WORD}", WORD),
    "setting of git": (f"git config --global user.password {WORD}", WORD),
    "setting of DVC": (f"dvc remote modify --local r password {WORD}", WORD),
    "SQL": (f"CREATE USER me IDENTIFIED BY '{WORD}'", WORD),
    "prose without a verb": (f"login as me with password {WORD} failed", WORD),
    "two in brackets": (f"ValueError: ('token', '{WORD}')", WORD),
    "pairs": (f"[('hf_token', '{WORD}'), ('lr', 1)]", WORD),
    "default of a variable": (f"os.environ.setdefault('HF_TOKEN', \"{WORD}\")", WORD),
    "attributes of XML": (f'<add key="ApiKey" value="{WORD}" />', WORD),
    "variable of Kubernetes": (f"env:\n  - name: HF_TOKEN\n    value: {WORD}\n", WORD),
    "variable as Python prints it": (f"[{{'name': 'HF_TOKEN', 'value': '{WORD}'}}]", WORD),
    "variable of CloudFormation": (f"- Name: HF_TOKEN\n  Value: '{WORD}'\n", WORD),
    "YAML, with a tag": (f"token: !secret {WORD}", WORD),
    "YAML, with an anchor": (f"token: &t '{WORD}'", WORD),
    "Python, with its type": (f'hf_token: str = "{WORD}"', WORD),
    "colon of full width": (f"password\uff1a{WORD}", WORD),
    "Dockerfile": (f"ENV HF_TOKEN {WORD}", WORD),
    "C shell": (f"setenv HF_TOKEN '{WORD}'", WORD),
    "fish": (f"set -x HF_TOKEN {WORD}", WORD),
    "address in an address": (f"https://h/login?next=https%3A%2F%2Fh%3Fa%3D1%26token%3D{WORD}%26b%3D2", WORD),
    "ODBC in a URL": (f"mssql+pyodbc:///?odbc_connect=UID%3Dsa%3BPWD%3D{WORD}", WORD),
    "netrc in lines": (f"machine h\nlogin me\npassword {WORD}\n", WORD),
    "netrc with an account": (f"machine h login me account x password {WORD}", WORD),
    "netrc for the others": (f"default login anonymous password {WORD}", WORD),
    "passphrase of words": ("lr: 1\npassphrase: correct horse battery\nn: 2", "horse"),
    "prose on a key": (f"my api key is {WORD}", WORD),
    "login of az": (f"az login --service-principal -u x -p {WORD} --tenant t", WORD),
    "upload of twine": (f"twine upload -u __token__ -p {WORD} dist/x", WORD),
    "mongosh": (f"mongosh -u me -p {WORD}", WORD),
    "ldapsearch": (f"ldapsearch -D cn=x -w {WORD}", WORD),
    "zip": (f"unzip -P {WORD} a.zip", WORD),
    "7-Zip": (f"7z x -p{WORD} a.7z", WORD),
    "openssl": (f"openssl enc -pass pass:{WORD}", WORD),
    "lftp": (f"lftp -u me,{WORD} host", WORD),
    "smbclient": (f"smbclient -U me%{WORD} //h/x", WORD),
    "ngrok": (f"ngrok authtoken {LONG}", LONG),
    "Zapier webhook": (f"https://hooks.zapier.com/hooks/catch/123456/{LONG[:8]}/", LONG[:8]),
    "Feishu webhook": (f"https://open.feishu.cn/open-apis/bot/v2/hook/{LONG}", LONG),
    "Databricks, OAuth": ("dose3e1f9a0b5c7d24683e1f9a0b5c7d2468", "3e1f9a0b5c7d2468"),
    "Airtable": (f"pat{LONG[:14]}.{'3e1f9a0b5c7d2468' * 4}", "3e1f9a0b5c7d2468"),
    "AWS, token of a session": (f"IQoJb3JpZ2luX2VjE{LONG}", LONG),
    "Tencent": (f"AKID{LONG[:32]}", LONG[:32]),
    "Yandex": (f"AQVN{LONG}", LONG),
    "private key of SSH.com": (f"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{LONG}\n---- END", LONG),
    "after another name": (f"ValueError: token={WORD} was refused", WORD),
    "CircleCI": (f"CCIPAT_{LONG[:22]}_{HEX * 2}3e1f9a0b", HEX),
    "Buildkite": (f"bkua_{HEX * 2}3e1f9a0b", HEX),
    "Square": (f"sq0atp-{LONG[:22]}", LONG[:22]),
    "PayPal": (f"access_token$production${HEX}${HEX * 2}", HEX),
    "Adafruit": (f"aio_{LONG[:28]}", LONG[:28]),
    "New Relic": (f"eu01xx{HEX}{HEX[:14]}NRAL", HEX),
    "ElevenLabs": (f"sk_{HEX * 3}", HEX),
    "Kaggle": (f"KGAT_{HEX * 2}", HEX),
    "DigitalOcean": (f"dor_v1_{HEX * 4}", HEX),
    "Heroku": (f"HRKU-{HEX[:8]}-5c7d-4468-9abc-{HEX[:12]}", HEX[:8]),
    "Pulumi": (f"pul-{HEX * 2}3e1f9a0b", HEX),
    "RubyGems": (f"rubygems_{HEX * 3}", HEX),
    "NuGet": (f"oy2{(HEX * 3)[:43]}", HEX),
    "Clojars": (f"CLOJARS_{HEX * 3}abcdef012345", HEX),
    "Sonar": (f"squ_{HEX * 2}3e1f9a0b", HEX),
    "Snyk": (f"snyk_uat.3e1f9a0b.{LONG}", LONG),
    "Linear, OAuth": (f"lin_oauth_{HEX * 4}", HEX),
    "Brevo": (f"xsmtpsib-{HEX * 4}-{LONG[:16]}", HEX),
    "Resend": (f"re_{LONG[:8]}_{LONG[8:32]}", LONG[8:32]),
    "Azure OpenAI": (f"{LONG}{LONG[:12]}JQQJ99BB{LONG[:24]}", LONG),
    "Azure DevOps": (f"{LONG}{LONG[:36]}AZDO1234", LONG),
    "Google Cloud Storage": (f"GOOG1E{LONG.upper()}ABCDEFGH", LONG.upper()),
    "AWS Bedrock": (f"ABSK{LONG * 2}", LONG),
    "AWS marketplace": (f"amzn.mws.{HEX[:8]}-5c7d-4468-9abc-{HEX[:12]}", HEX[:8]),
    "Vault, recovery": (f"hvr.{LONG}", LONG),
    "sqlcmd": (f"sqlcmd -S h -U sa -P {WORD}", WORD),
    "keytool": (f"keytool -storepass {WORD} -alias x", WORD),
    "Windows": (f"setx HF_TOKEN {WORD}", WORD),
    "bold name": (f"**password:** {WORD}", WORD),
    "bold name, colon behind it": (f"- **API key**: {WORD}", WORD),
    "name in backticks": (f"`password`: `{WORD}`", WORD),
    "name in HTML": (f"<b>password:</b> {WORD}", WORD),
    "French": (f"mot de passe : {WORD}", WORD),
    "spaces that do not break": (f"password\u00a0=\u00a0{WORD}", WORD),
    "in a call": (f"Hub(token=SecretStr('{WORD}'), lr=1)", WORD),
    "in a call of a call": (f"token=str(Secret(value='{WORD}'))", WORD),
    "default of a call": (f"token = os.environ.get('X', '{WORD}')", WORD),
    "behind a brace": (f"password=a}}b{WORD} x", WORD),
    "behind a variable": (f"password=${{A}}{WORD} x", WORD),
    "default of a variable of the shell": (f"password=${{A:-{WORD}}}", WORD),
    "login of curl, in one word": (f"curl -uelastic:{WORD} h", WORD),
    "header with a space of the shell": (f"curl -H Authorization:Token\\ {LONG} h", LONG),
    "redis-cli": (f"redis-cli --pass {WORD} ping", WORD),
    "quotes doubled": (f"password='it''s {WORD}'", WORD),
}
PLAIN_TEXTS = [
    "facebook/bart-large-cnn", "google/flan-t5-xxl@main", "hf_transfer", "sk-learn", "/home/me/.ssh/id_rsa.pub",
    "0123456789abcdef0123456789abcdef01234567", "550e8400-e29b-41d4-a716-446655440000", f"sha256:{'a' * 64}",
    "GPU-8f6d5e4c-1234-5678-9abc-def012345678", "--tokens 128", "max_new_tokens=128", "pad_token='</s>'",
    "author: me", "Basic training of a model", "bearer of bad news", "unexpected token: else", "token=None",
    "use_auth_token=True", "token_type_ids: [0, 1]", "bucket_key: length", "sort_key=name", "http://host:80/path@v1",
    "https://example.org/a?b=1&page=2", "ssh://git@github.com/x/y.git", "git@github.com:x/y.git", "mailto:a@b.c",
    "abfss://data@account.dfs.core.windows.net/train", "postgres://user@host/db", "C:\\Users\\me\\data",
    "time: 12:30:45",
    "CUDA error: out of memory. Tried to allocate 2.00 GiB (GPU 0; 31.75 GiB total)", "a = b", "key=value", "A3 B7",
    "A note about the length of a password.", "KeyError: 'password'", "Epoch 1/3: 100%|###| 10/10 [00:01<00:00]",
    "task-123456789012345678901234", "wandb: run abc123", "AKIRA", "{\"tokens\": 3, \"password\": null, \"b\": true}",
    "the password is wrong", "Password is required", "cookie: none", "Authorization: required", "credentials: missing",
    "Please pass a token=... or log in", "https://example.org/a?code=7", "https://example.org/a?key=1",
    "wandb run at commit 3e1f9a0b5c7d24683e1f9a0b5c7d246812345678", "docker run -u 1000:1000 -p 8080:80 image",
    "mysql -u root -p db", "ssh -p 2222 host", "secret_santa_model_v2_final_2024_01",
    "pa-resnet50-imagenet-pretrained-1", "fw_layer_12_attention_output_1", "curl -u https://x", "<tokens>128</tokens>",
    "max_steps\n  Input should be ... [type=x, input_value='many', input_type=str]", "['--tokens', '128']",
    "model_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1", "checkpoint-3e1f9a0b5c7d24683e1f9a0b5c7d246812345678",
    "sk-snk-cs-wikipedia-20220301-split", "sk-bert-base-multilingual-2021",
    f"sha512-{(LONG * 3)[:86]}==", "password: ~",
    "token: [1, 2, 3]", "token=\u2581the", "user_token: <|user|>", "class_name_token='[CLS]'", "Predicted token: Paris",
    "Token is required (`token=True`), but no token found", "password: field required", "api_key: must be set",
    "credentials: not found", "('token', 'lemma', 'pos')", "['token', 'lemma']", "getenv('HF_TOKEN', None)",
    "google-auth==2.29.0", "PWD=/home/me", "GOOGLE_APPLICATION_CREDENTIALS=/etc/a.json",
    "tiktoken: 0.7.0", "SecretStorage==3.3.3", "PyJWT=2.8.0.post1", "def ids(token: str) -> int:",
    "if credentials == None", "hf_token: str = None", "password:\nlr: 1", "secrets:\n\nlr: 1", "credentials={}",
    "token=[]", "git config user.email me@x",
    "ENV PATH /usr/bin", "set -x LR 0.1", "name: token\nvalue: 3", "https://h/x?tag%3Da%26pad_token%3Db",
    "by passing `token=<your_token>`", "HF_TOKEN=<your token> python x", "HF_TOKEN=${HF_TOKEN}", "--hf-token $HF_TOKEN",
    "token: ${oc.env:HF_TOKEN}", 'password: "{{ db_password }}"', "token: ${{ secrets.HF_TOKEN }}",
    "--user-token '<|user|>'", "AssertionError: secret: expected str, got int", "**Tokens:** many", "**token**: the",
    "re_weight_20240101_sampled_token", "ssh -o PasswordAuthentication=no h", "use_auth_token: yes", "token=-1",
    "git config credential.helper store", "arn:aws:secretsmanager:us-east-1:123456789012:secret:x-AbCdEf",
     "squad_v2_20240101_processed", "pul-mri-2024",
    "s3://bucket/train/key=1/part-0.parquet", "t5-3b samsum", "adamw_torch", "", "x", "\u00e9\u00e8 \u65e5\u672c: 1",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_text_under_a_secret_name_is_masked(name):
    assert is_secret_name(name)
    assert redact({name: WORD}) == {name: MASK}
    assert redact({"a": [{name: [WORD, {"x": WORD}]}]}) == {"a": [{name: [MASK, {"x": MASK}]}]}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_text_under_another_name_is_kept(name):
    assert not is_secret_name(name)
    values = {name: "</s>", "nested": {name: ["t5-small", "a text"]}}
    assert redact(values) is values


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("value", [0, 128, 3e-5, True, False, None, "", [], {}, [1, None, True]])
def test_numbers_booleans_and_none_are_never_masked(name, value):
    assert redact({name: value}) == {name: value}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_secret_shape_is_masked_whatever_the_name(kind):
    text, secret = SHAPES[kind]
    for value in (text, [text], {"a": {"b": text}}, {text: 1}):
        made = json.dumps(redact(value))
        assert secret not in made
        assert MASK in made
    assert redact_text(redact_text(text)) == redact_text(text)


@pytest.mark.parametrize("text", PLAIN_TEXTS)
def test_a_text_without_a_secret_is_kept(text):
    assert redact_text(text) == text
    assert redact({"a": [text]}) == {"a": [text]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_data_keeps_its_structure(value):
    made = redact(value)
    assert type(made) is type(value)
    assert redact(made) == made
    assert redact_line({"params": {"a": value}, "t": 1.0})["t"] == 1.0


def test_the_rest_of_a_text_is_kept():
    assert redact_text(f"Server=db;Password={WORD};Encrypt=True") == f"Server=db;Password={MASK};Encrypt=True"
    assert redact_text(f"Config(hub_token='{WORD}', n=2)") == f"Config(hub_token='{MASK}', n=2)"
    assert redact_text(f"postgres://me:{WORD}@db/x?a=1") == f"postgres://{MASK}@db/x?a=1"
    assert redact_text(json.dumps({"lr": 1e-5, "token": WORD})) == json.dumps({"lr": 1e-5, "token": MASK})


def test_a_name_and_its_value_beside_each_other():
    assert redact([{"name": "HF_TOKEN", "value": WORD}]) == [{"name": "HF_TOKEN", "value": MASK}]
    assert redact({"Key": "ApiKey", "Value": WORD}) == {"Key": "ApiKey", "Value": MASK}, "as AWS writes it"
    assert redact({"ParameterKey": "DbPassword", "ParameterValue": WORD})["ParameterValue"] == MASK
    assert redact({"name": "lr", "value": WORD}) == {"name": "lr", "value": WORD}
    assert redact([["password", WORD], ["lr", "1"]]) == [["password", MASK], ["lr", "1"]]
    assert redact({"args": ["--hf-token", WORD, "--lr", "1"]}) == {"args": ["--hf-token", MASK, "--lr", "1"]}


def test_a_wandb_key_is_masked_under_its_name_and_a_commit_is_not():
    key = "3e1f9a0b5c7d2468" * 2 + "01234567"
    assert redact({"wandb": key, "commit": key, "wandb_commit": key}) == {
        "wandb": MASK, "commit": key, "wandb_commit": key,
    }  # fmt: skip
    assert redact_command(["wandb", "login", key]) == ["wandb", "login", MASK]
    assert redact_command(["--revision", key]) == ["--revision", key]
    assert redact_command(["wandb", "artifact", "sha1", key]) == ["wandb", "artifact", "sha1", key]


def test_the_fields_of_a_named_tuple_are_names(tmp_path: Path):
    login = collections.namedtuple("login", "user password")
    run = greenml.track(tmp_path / "run.json", gpus="")
    run.start()
    run.params(logins=[login("me", WORD)])
    record = run.stop()
    assert record is not None
    assert record.params["logins"] == [{"user": "me", "password": MASK}]


def test_the_working_directory_is_kept():
    places = {"PWD": "/home/me", "OLDPWD": "C:\\work"}
    assert redact({"env": places}) == {"env": places}
    assert redact({"pwd": WORD, "DB_PWD": "/x"}) == {"pwd": MASK, "DB_PWD": MASK}


def test_the_version_of_a_package_is_kept():
    packages = {
        "google-auth": "2.29.0",
        "requests-oauthlib": "2.0.0",
        "tiktoken": "0.7.0+cu124",
        "SecretStorage": "3.3",
    }
    assert redact({"packages": packages}) == {"packages": packages}
    assert redact_command(["pip", "install", "google-auth==2.29.0"]) == ["pip", "install", "google-auth==2.29.0"]
    assert redact({"google-auth": WORD, "password": "2.29.0"}) == {"google-auth": MASK, "password": MASK}


def test_the_whole_value_is_masked_and_no_more():
    assert redact_text(f"Hub(token=SecretStr('{WORD}'), n=2)") == f"Hub(token={MASK}, n=2)"
    assert redact_text(f"Hub(token=d['a']['{WORD}'], n=2)") == f"Hub(token={MASK}, n=2)"
    assert redact_text(f"**password:** {WORD} and **lr:** 1") == f"**password:** {MASK} and **lr:** 1"


def test_the_key_of_kaggle_json():
    assert redact({"username": "me", "key": WORD}) == {"username": "me", "key": MASK}
    assert redact({"username": "me", "key": "id", "on": True}) == {"username": "me", "key": "id", "on": True}


def test_a_digest_under_its_name_is_kept():
    digest = f"{(LONG * 3)[:86]}=="
    assert redact({"sha512": digest, "weights_digest": digest}) == {"sha512": digest, "weights_digest": digest}
    assert redact({"share": digest}) == {"share": MASK}


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
secret_texts = st.text(LETTERS, min_size=16, max_size=40)
odd_texts = st.text(LETTERS + "+/=._~!$%^*-", min_size=16, max_size=40).filter(lambda text: text[0] not in "-=")
option_names = st.sampled_from(
    ["api-key", "api_key", "apikey", "token", "hf_token", "hub-token", "auth_token", "password", "passwd", "db-pwd",
     "secret", "client-secret", "aws_secret_access_key", "access-key", "wandb_key", "wandb-key", "account_key",
     "credentials", "sas", "sas_token", "HF_TOKEN", "WANDB_API_KEY"],
)  # fmt: skip

FORMS = {
    "--name value": lambda name, secret: [f"--{name}", secret],
    "--name=value": lambda name, secret: [f"--{name}={secret}"],
    "-name value": lambda name, secret: [f"-{name}", secret],
    "NAME=value": lambda name, secret: [f"{name.upper()}={secret}"],
    "hydra": lambda name, secret: [f"+logger.{name}={secret}"],
    "--env NAME=value": lambda name, secret: ["--env", f"{name}={secret}"],
    "--env=NAME=value": lambda name, secret: [f"--env={name}={secret}"],
    "json": lambda name, secret: ["--config", f'{{"lr": 1, "{name}": "{secret}"}}'],
    "url query": lambda name, secret: [f"https://example.org/data?a=1&{name}={secret}&b=2"],
    "--url=url query": lambda name, secret: [f"--url=https://example.org/data?a=1&{name}={secret}"],
}
VALUES = {
    "hugging face": lambda secret: ["train.py", f"hf_{secret}"],
    "within a word": lambda secret: ["--header", f"x:hf_{secret}"],
    "openai": lambda secret: [f"sk-{secret}"],
    "github": lambda secret: ["--data", f"https://ghp_{secret}@github.com/x.git"],
    "url with a password": lambda secret: [f"--db=postgres://me:{secret}@db.example.org/x"],
    "url with a password, apart": lambda secret: ["--db", f"postgres://me:{secret}@db.example.org:5432/x"],
    "url with a password alone": lambda secret: ["--broker", f"redis://:{secret}@cache:6379/0"],
    "url with a token for a user": lambda secret: ["--repo", f"https://{secret}@example.org/x.git"],
    "azure storage, sas": lambda secret: ["--data", f"https://x.blob.core.windows.net/c?sv=1&sig={secret}&se=2"],
    "azure storage, key": lambda secret: ["--store", f"Protocol=https;AccountName=x;AccountKey={secret}"],
    "bearer": lambda secret: ["--header", f"Authorization: Bearer {secret}"],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@given(name=option_names, secret=secret_texts)
def test_the_value_of_a_secret_option_never_survives(form, name, secret):
    shown = redact_command(["--lr", "3e-05", *FORMS[form](name, secret), "--epochs", "3"])
    assert secret not in " ".join(shown)
    assert shown[:2] == ["--lr", "3e-05"]
    assert shown[-2:] == ["--epochs", "3"]


@pytest.mark.parametrize("form", ["--name value", "--name=value", "NAME=value"])
@given(name=option_names, secret=odd_texts)
def test_nor_does_one_of_any_letters(form, name, secret):
    assert secret not in " ".join(redact_command(FORMS[form](name, secret)))


@pytest.mark.parametrize("form", VALUES)
@given(secret=secret_texts)
def test_a_value_that_looks_like_a_secret_never_survives(form, secret):
    assert secret not in " ".join(redact_command(["--lr", "1", *VALUES[form](secret)]))


@given(before=secret_texts, after=secret_texts)
def test_a_password_with_an_at_sign_goes_whole(before, after):
    shown = " ".join(redact_command(["--db", f"mysql://me:{before}@{after}@db/x"]))
    assert before not in shown
    assert after not in shown


def test_what_is_no_secret_stays():
    words = ["--model_name_or_path", "t5-3b", "--lr=3e-05", "--do_train", "data/x.csv", "https://example.org/a?b=1"]
    assert redact_command(words) == words
    assert redact_command(["--api-key", "--do_train"]) == ["--api-key", "--do_train"], "an option is not a value"
    assert redact_command(["--token=abc"]) == [f"--token={MASK}"]
    for tool in (["docker", "run", "-u", "1000:1000", "x"], ["podman", "run", "--user", "me:us", "x"],
                 ["docker", "run", "--user=1000:1000", "x"], ["curl", "-u", ":", "x"],
                 ["t.py", "--user-token", "<|user|>"],
                 ["docker", "run", "-p", "80:80", "x"], ["ssh", "-p", "22", "h"], ["rsync", "-a", "x", "y"],
                 ["mysql", "-u", "me", "-p", "db"]):  # fmt: skip
        assert redact_command(tool) == tool
    assert redact_command([]) == []


@pytest.mark.parametrize("letters", range(280, 500, 5))
def test_a_secret_at_the_end_of_what_is_shown_is_masked(letters: int):
    """Errors are shown shortened: a secret that is cut in two is no longer known for one."""
    error = ValueError("x " * (letters // 2) + "hf_" + "aB3d" * 8)
    for text in (sinks._text(error), exit_hooks.outcome(error)[1]):
        assert len(text) <= 500
        assert "hf_a" not in text


@pytest.mark.parametrize(
    "words",
    [["sshpass", "-p", WORD, "ssh"], ["/usr/bin/docker", "login", "-u", "me", "-p", WORD, "r"],
     ["mysqldump", f"-p{WORD}"], ["redis-cli", "-a", WORD, "ping"],
     ["az", "login", "-u", "x", "-p", WORD],
     ["aws", "configure", "set", "aws_secret_access_key", WORD], ["git", "config", "user.password", WORD],
     ["ldapsearch", "-w", WORD], ["sqlcmd", "-P", WORD], ["setx", "HF_TOKEN", WORD], ["curl", f"-ume:{WORD}", "h"],
     ["openssl", "-passin", f"pass:{WORD}"], ["zip", "-P", WORD, "a"], ["7z", "x", f"-p{WORD}"],
     ["curl", f"--user=me:{WORD}", "x"]],
)  # fmt: skip
def test_an_option_of_one_letter_is_masked_where_the_program_takes_a_password(words):
    shown = redact_command(words)
    assert WORD not in " ".join(shown)
    assert len(shown) == len(words)


def test_a_variable_of_the_environment_is_masked_wherever_its_value_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "abcdefgh12345678")
    assert redact_command(["train.py", "x=abcdefgh12345678,y"]) == ["train.py", f"x={MASK},y"]
    monkeypatch.delenv("MY_SERVICE_TOKEN")
    assert redact_command(["train.py", "x=abcdefgh12345678,y"]) == ["train.py", "x=abcdefgh12345678,y"]


def test_no_secret_reaches_a_file_report_or_log_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from greenml.analysis.comparison import compare, compare_text
    from greenml.reports import csv, html, latex, markdown, model_card, terminal

    monkeypatch.chdir(tmp_path)
    texts = [text for text, _ in SHAPES.values()]
    run = greenml.track(tmp_path / "run.json", name=f"run hf_{LONG[:34]}", gpus="")
    run.start()
    with run.phase(f"train hf_{LONG[:34]}"):
        run.params(dict.fromkeys(SECRET_NAMES, WORD), texts=texts, nested={"deep": {"password": WORD}})
        run.params(dict.fromkeys(PLAIN_NAMES, "kept"), learning_rate=3e-5, max_new_tokens=128)
        run.log({"rouge": 0.5, "best": texts, f"hf_{LONG[:34]}": 1.0}, api_key=WORD)
        run.describe(training_args={"hub_token": WORD, "pad_token": "</s>"}, texts=texts)
        for text in texts:
            run.note(text)
    with caplog.at_level(logging.WARNING, logger="greenml"):
        logging.getLogger("greenml").warning("refused: %s", texts[0])
    record = run.stop("failed", f"HTTPError: 401 for https://me:{WORD}@example.org, token={WORD}, hf_{LONG[:34]}")
    assert record is not None
    assert record.params["pad_token"] == "kept"
    assert record.params["max_new_tokens"] == 128
    assert record.metrics["rouge"] == 0.5
    assert record.params["hf_token"] == MASK
    assert record.error is not None
    assert record.error.startswith(f"HTTPError: 401 for https://{MASK}@example.org")
    read = record_file.read(tmp_path / "run.json")
    comparison = compare.compare([compare.Run("a", read, "a.json"), compare.Run("b", read, "b.json")])
    outputs = {
        "log": caplog.text,
        "page": html.render(read),
        "csv": csv.render(read),
        "latex": latex.render(read),
        "tables": markdown.render(read),
        "card": model_card.update("", read).text,
        "terminal": terminal.render(read),
        "comparison": compare_text.as_json(comparison) + compare_text.table(comparison),
        "compared": compare_text.terminal(comparison, None, color=False),
    }
    for path in [tmp_path / "run.json", *(tmp_path / "run.trace").rglob("*")]:
        outputs[str(path)] = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = {WORD, LONG, LONG[:16], *(secret for _, secret in SHAPES.values())}
    for name, text in outputs.items():
        assert [part for part in parts if part in text] == [], name


def test_an_old_record_is_masked_when_it_is_read_and_written(tmp_path: Path):
    run = greenml.track(tmp_path / "run.json", gpus="")
    run.start()
    record = run.stop()
    assert record is not None
    content = json.loads(record.model_dump_json())
    content["params"] = {"hub_token": WORD, "lr": 1}
    content["notes"].append({"code": "user", "text": f"see https://me:{WORD}@example.org"})
    content["environment"]["command"] = ["train.py", "--hub_token", WORD]
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    read = record_file.read(tmp_path / "old.json")
    assert read.params == {"hub_token": MASK, "lr": 1}
    assert WORD not in read.model_dump_json()
    assert read.environment.command == ["train.py", "--hub_token", MASK]
    record_file.write(record.model_copy(update={"params": {"password": WORD}}), tmp_path / "new.json")
    assert WORD not in (tmp_path / "new.json").read_text(encoding="utf-8")


def test_an_imported_trainer_is_masked(tmp_path: Path):
    arguments = {
        "hub_token": WORD, "pad_token": "</s>", "max_steps": 5, "logging_dir": f"https://me:{WORD}@example.org/x",
        "report": {"wandb_api_key": WORD}, "argv": ["--hf-token", WORD],
    }  # fmt: skip
    (tmp_path / "training_args.json").write_text(json.dumps(arguments), encoding="utf-8")
    (tmp_path / "all_results.json").write_text('{"train_runtime": 5.0}', encoding="utf-8")
    record = importers.load(trainer_output=tmp_path, duration_seconds=6)
    assert WORD not in record.model_dump_json()
    assert record.params["pad_token"] == "</s>"
    assert record.params["max_steps"] == 5
