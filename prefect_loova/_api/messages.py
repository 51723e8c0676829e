"""Classify the messages of Loova: a limit, a wrong API key, missing credits, or an accepted request.

Loova documents no list of messages, so these patterns are guesses of this package. `docs/answers.md` describes them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LIMIT_REACHED = re.compile(
    r"\b(too many (running |concurrent |active )?(tasks|generations|requests)|(concurren\w+|running task|rate) limit"
    r"|limit of (running|concurrent) tasks|at most \d+ (running |concurrent )?tasks)\b",
    re.IGNORECASE,
)
"""Loova refused the request because too many tasks run. pricing-and-limits documents no code for this."""

CREDITS_MISSING = re.compile(r"\b(insufficient|not enough|no)\b[^.]{0,30}\b(credits?|balance)\b", re.IGNORECASE)
"""The account does not have enough credits."""

KEY_REFUSED = re.compile(r"\b(authentication failed|unauthorized|invalid (api )?key|invalid token)\b", re.IGNORECASE)
"""Loova does not accept the API key."""

CONTENT_REFUSED = re.compile(
    r"sensitive ?(content|information|words?|topics?|material)|\binappropriate\b|\bnsfw\b"
    r"|\bprohibited (content|words?)|\bcontent[ _.-]?(policy|filter\w*|moderation|safety|violation|risk)"
    r"|policy[ _.-]?violation|\bmoderat(ed|ion)\b|\b(safety|content) (system|check|review|filter)"
    r"|\b(violat\w+|against|breach\w*) [^.]{0,40}\b(polic(y|ies)|guidelines?|terms|standards|safety)\b"
    r"|\b(words?|content) (that )?(is|are) not allowed"
    r"|\b(copyright|trademark)\w*\b|\b(real|public) (person|people|figures?)\b|\bcelebrit(y|ies)\b"
    r"|敏感|违规|違規|违禁|違禁|不合规|不合規|审核|審核|内容安全|內容安全|版权|版權|肖像",
    re.IGNORECASE,
)
"""Loova, or the model behind it, refused the content of a request or of a video.

Loova documents no messages for it. The words are those of other hosts of Seedance (`InputTextSensitiveContentDetected`,
`OutputVideoSensitiveContentDetected`, `content_policy_violation`).
"""

ACCEPTED = {
    "English": r"\b(created|accepted|(en)?queued|queueing|queuing|delayed|deferred|scheduled)\b|\bin (the |a )?queue\b",
    "Chinese": r"(创建|創建|建立|新建)(?!失败|失敗)|(?<!不)接受|受理(?!失败|失敗)"
    r"|(排队|排隊|队列|隊列|佇列)(?!已满|已滿)|延迟|延遲|延后|延後|推迟|推遲",
    "Japanese": r"作成(さ|し|済|完了)|受け付け|受付|受理|承認|キュー|順番待ち|遅延|遅れ",
    "Korean": r"생성(되|됐|했|완료)|접수|수락|승인|대기열|지연",
    "German": r"\b(erstellt|angelegt|angenommen|akzeptiert|eingereiht|verzögert|eingeplant)\b|warteschlange",
    "French": r"\b(créée?s?|acceptée?s?|retardée?s?|différée?s?|planifiée?s?)\b|file d.attente",
    "Spanish": r"\b(cread|aceptad|retrasad|demorad|encolad|programad)[oa]s?\b|\ben (la )?cola\b",
    "Portuguese": r"\b(criad|aceit|atrasad|adiad|enfileirad|agendad)[oa]s?\b|\b(na|em) fila\b",
    "Italian": r"\b(creat|accettat|ritardat|accodat|rinviat)[oaie]\b|\bin coda\b",
    "Dutch": r"\b(aangemaakt|geaccepteerd|vertraagd|uitgesteld|ingepland)\b|wachtrij",
    "Polish": r"\b(utworzon|przyjęt|zaakceptowan|opóźnion)\w*|\bw kolejce\b",
    "Czech": r"\b(vytvořen|přijat|zpožděn|odložen)\w*|\bve frontě\b",
    "Scandinavian": r"\b(skapad|oprettet|opprettet|accepterad|accepteret|akseptert|forsinket|försenad)\b|\bi (kö|kø)",
    "Turkish": r"oluşturuldu|kabul edildi|kuyruğ|kuyruk|sıraya|gecik|ertelen",
    "Vietnamese": r"(đã|được) tạo|chấp nhận|hàng đợi|trì hoãn|bị chậm",
    "Indonesian": r"\b(dibuat|diterima|ditunda|tertunda)\b|antri|antre",
    "Russian": r"создан|принят|очеред|отложен|задерж",
    "Ukrainian": r"створен|прийнят|черз|відкладен|затрим",
    "Arabic": r"تم (إنشاء|قبول|استلام)|قائمة الانتظار|تأخير|تأجيل",
    "Hindi": r"बनाया गया|स्वीकार|कतार|विलंब",
    "Thai": r"สร้าง|คิว|ล่าช้า",
}
"""Words for "accepted" in each language: created, accepted, queued, delayed."""

IN_PROGRESS = {
    "English": r"\b(pending|processing|submitted|submitting|received|started|running now|task (is )?running|generating"
    r"|success\w*|ok|okay|done|in (progress|process))\b",
    "Chinese": r"提交(?!的|失败|失敗)|(处理|處理|进行|進行|执行|執行|运行|運行|生成|等待)中(?!的)"
    r"|正在(处理|處理|生成|执行|執行|等待)|待(处理|處理)|已(接收|收到|开始|開始)|(?<!未)(?<!不)成功",
    "Japanese": r"(処理|進行|実行|生成|待機)中|保留|送信(さ|し|済)|提出(さ|し|済)|開始(さ|し)|(?<!未)(?<!不)成功",
    "Korean": r"(처리|진행|생성|대기|실행) ?중|보류|제출|시작|성공",
    "German": r"\b(ausstehend|eingereicht|übermittelt|gestartet|erfolg\w*|verarbeitung)\b|in bearbeitung"
    r"|wird (be|ver)arbeitet",
    "French": r"\b(en attente|en cours|traitement|soumise?s?|envoyée?s?|lancée?s?|démarrée?s?|succès)\b",
    "Spanish": r"\b(pendientes?|procesando|en (proceso|curso|espera)|enviad[oa]s?|recibid[oa]s?|iniciad[oa]s?|éxito)\b",
    "Portuguese": r"\b(pendentes?|processando|em (processamento|andamento|espera)|sucesso"
    r"|(enviad|submetid|recebid|iniciad)[oa]s?)\b",
    "Italian": r"\b(in (sospeso|attesa|corso)|elaborazione|inviat[oaie]|ricevut[oaie]|avviat[oaie]|successo)\b",
    "Dutch": r"\b(in behandeling|ingediend|verzonden|ontvangen|gestart|bezig|succes\w*)\b|wordt verwerkt",
    "Polish": r"\b(oczekuj|przetwarz|wysłan|złożon|rozpoczęt)\w*|\bw toku\b|sukces",
    "Czech": r"\b(čeká|zpracov|odeslán|zahájen)\w*|\bprobíhá\b|úspěš",
    "Scandinavian": r"\b(väntar|venter|afventer|bearbetas|behandles|skickat|sendt|startad|startet|lyckades)\b|pågår",
    "Turkish": r"bekle|işlen|gönderildi|devam ediyor|başla|başarı",
    "Vietnamese": r"đang (chờ|xử lý|tạo)|đã (gửi|nhận|bắt đầu)|thành công",
    "Indonesian": r"\b(menunggu|diproses|dikirim|dimulai|berhasil|sukses)\b|sedang",
    "Russian": r"ожида|обрабат|обработке|отправлен|получен|в процессе|выполняется|начат|успешно",
    "Ukrainian": r"очіку|обробля|обробці|надіслан|виконується|успішно",
    "Arabic": r"قيد (الانتظار|المعالجة|التنفيذ)|في الانتظار|تم الإرسال|جاري|بنجاح",
    "Hindi": r"लंबित|प्रक्रिया|जमा किया|सफल",
    "Thai": r"กำลัง|รอดำเนิน|สำเร็จ",
}
"""Words that can mean "accepted" or can occur in a refusal: pending, processing, submitted, in progress."""

SHORTEST_PHRASE = 3
PHRASE_RULE = f"must have at least {SHORTEST_PHRASE} letters, because every message is searched for it"

_SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "CYRILLIC", "ARABIC", "DEVANAGARI",
            "THAI", "FULLWIDTH", "HALFWIDTH", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "IDEOGRAPHIC")  # fmt: skip
"""The scripts of these languages, as the first words of the Unicode names of their letters."""


def normalize(text: str) -> str:
    """Return text without case, accents, width and invisible characters, so that spelling does not hide a word."""
    visible = (char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) not in ("Mn", "Cf"))
    return " ".join("".join(visible).casefold().split())


_ACCEPTED = re.compile("|".join(f"(?:{normalize(words)})" for words in ACCEPTED.values()))
_ACCEPTED_OR_IN_PROGRESS = re.compile(
    "|".join(f"(?:{normalize(words)})" for words in (*ACCEPTED.values(), *IN_PROGRESS.values()))
)
_LIMIT = re.compile(rf"{LIMIT_REACHED.pattern}|\btoo many (\w+ ){{0,3}}(tasks|generations|requests|jobs|videos)\b")


def states_acceptance(message: str) -> bool:
    """Return whether a message about a limit also says that the request was accepted ("delayed and queued")."""
    return _ACCEPTED.search(_LIMIT.sub(" ", normalize(message))) is not None


def suggests_acceptance(message: str) -> bool:
    """Return whether a message may mean "accepted": it has a word of the lists, or a script that the lists lack."""
    if _ACCEPTED_OR_IN_PROGRESS.search(normalize(message)):
        return True
    letters = {char for char in message if char.isalpha()}
    return any(unicodedata.name(char, "UNKNOWN").split()[0] not in _SCRIPTS for char in letters)


def is_content_refusal(message: str, phrases: Sequence[str] = ()) -> bool:
    """Return whether a message says that content was refused: by the patterns here, or by the user's phrases."""
    return CONTENT_REFUSED.search(message) is not None or contains_any(message, phrases)


def contains_any(message: str, phrases: Sequence[str]) -> bool:
    """Return whether the message contains one of the phrases, in any case and spacing."""
    text = normalize(message)
    return any(normalize(phrase) in text for phrase in phrases)
