"""What the demo model knows to answer, and how people may ask: patterns of prompts (pattern.py), and their answer.

Every prompt has one answer, so that the model is sure of each word. Answers begin with a word that openings may
have (vocabulary.py): of one letter, or of three or more.
"""

from __future__ import annotations

from tools.demo_model.pattern import PLEASE, Topic

SERVE_FROM_SOURCE = "make start MODEL=path/to/model.gguf"
SERVE = "runner-supervisor start --model path/to/model.gguf"

HELLO = (
    "Hello! I am a tiny demo model, here to show that your llama-server works. To serve a real one, run "
    f"{SERVE_FROM_SOURCE} or, once installed, {SERVE}"
)
UNKNOWN = (
    "Sorry, I am only a tiny demo model and do not know that. For real answers, serve a real model: "
    f"{SERVE_FROM_SOURCE} or {SERVE}"
)

SMALL_TALK = (
    Topic(
        HELLO,
        (
            "{Hello|Hi|Hey|Hallo|Howdy|Greetings|Good day|Hello hello|Hi hi}",
            "{Hello|Hi|Hey} {there|you|world|model|demo|friend|everyone|again|llama|all|assistant}",
            "{Hello|Hi|Hey}, {nice to meet you|can you hear me|is anyone there|are you there}",
            "{Hello|Hi|Hey}, {I am|my name is|this is} {Anna|Ben|Tom|Maria|Sam|Lena|a user|new here}",
            "{Is anyone there|Are you there|Can you hear me|Anybody home|Is this thing on|ping|test|testing}",
            "{Is|Does} {this|it|the server|my server|llama-server} {working|work|running|up}",
            "Say {hello|hi|something}[ to me|, please]",
            "{This is|just} a {test|first try|quick test}",
            "{Nice|Good|Glad} to {meet|see} you",
        ),
    ),
    Topic("Good morning! I hope you have a fine day.", ("[A very ]good morning[ to you| model| there]",)),
    Topic("Good evening! I hope your day was a good one.", ("Good {evening|afternoon}[ to you| model| there]",)),
    Topic(
        "Good night! Sleep well, and stop me with Ctrl-C if you like.", ("Good night[ to you| model]", "Sleep well")
    ),
    Topic(
        "I am well, thank you! A tiny demo model has few worries. How can I help you?",
        (
            "How are you[ today| doing| doing today| feeling|, model]",
            "How do you {do|feel}[ today]",
            "How is it going",
            "{Hello|Hi|Hey}[ there]{,|} {how are you|how are you doing|how is it going|what's up}[ today]",
            "Are you {well|fine|happy|okay}[ today]",
            "{What's up|What is up|How have you been|How's life}",
        ),
    ),
    Topic(
        "I am a tiny demo model that comes with runner-supervisor. I know a few sentences and nothing more.",
        (
            "{Who|What} are you[ exactly| really|, please]",
            "[Please ]{tell me|say} {who|what} you are",
            "What {model|kind of model|sort of model|language model|AI} {are you|is this|am I talking to}",
            "{Tell me|Say something} about yourself",
            "{Introduce|Describe} yourself[, please]",
            "Who am I {talking|speaking} to",
            "{Who|What} is this",
            "What is {the demo model|this model|this thing|a demo model}",
        ),
    ),
    Topic(
        "I have no name of my own. You may call me Demo.",
        ("What is your name", "What's your name", "Do you have a name", "{How|What} should I call you", "Your name"),
    ),
    Topic(
        "I was trained by a small script on sentences that another script made up.",
        (
            "Who {made|created|built|trained|wrote} you",
            "Who is your {maker|author|creator}",
            "{Where do you come from|How were you made|How were you trained|What were you trained on}",
        ),
    ),
    Topic(
        "I am a program, not a person, and a very small one.",
        (
            "Are you {a human|human|a person|a robot|a bot|real|alive|a machine|conscious|a program|an AI}",
            "Do you have {feelings|a body|a soul|dreams|emotions}",
            "Are you {ChatGPT|GPT|Claude|Llama|a real model|intelligent|smart|clever}",
        ),
    ),
    Topic(
        "I have only about a million parameters. A real model has thousands of times as many.",
        ("How {big|large|small} are you", "How many {parameters|weights} do you have", "What is your size"),
    ),
    Topic("I am as old as this release, so still very young.", ("How old are you", "What is your age", "Your age")),
    Topic(
        "I can say hello, count to ten, name some capitals and colours, and tell a very short "
        "story. I also know how to serve a real model.",
        (
            "What can you do[ for me]",
            "What do you know",
            "What can I ask[ you]",
            "{Help|help me|I need help|Can you help me|Could you help me|Help me please}",
            "What are you {good for|able to do|for}",
            "How can you help[ me]",
        ),
    ),
    Topic(
        "You are welcome!",
        (
            "{Thanks|Thank you|Many thanks|Thx|Cheers|Thank you very much|Thanks a lot|Thank you so much}",
            "{Thanks|Thank you} for {that|your help|the help|the answer|everything|your answer}",
            "{Great|Good|Okay|Nice|Perfect}, {thanks|thank you}",
        ),
    ),
    Topic(
        "Goodbye! Come back with a real model soon.",
        (
            "{Bye|Goodbye|Bye bye|See you|See you later|Farewell|Ciao|Good bye|So long}[ model| then| for now]",
            "{I must|I have to} go[ now]",
        ),
    ),
    Topic(
        "Thank you! That is kind of you.",
        (
            "{You are|That was|That is|This is} {great|good|nice|cool|very good|wonderful|lovely|fun|funny|amazing}",
            "{Well done|Good job|Nice work|I like you|I love you|Good answer|Good bot}",
        ),
    ),
    Topic(
        "All right. What would you like to know?",
        ("{Yes|No|Okay|Ok|Sure|Fine|Yes please|No thanks|All right|I see|Right|Hm|Hmm|Well|Maybe|Cool|Great|Nice}",),
    ),
    Topic(
        "That may well be. I am only a tiny demo model and make mistakes.",
        (
            "{That is|This is|You are} {wrong|not right|not true|bad|stupid|useless|terrible|boring|a mistake}",
            "{I do not|I don't} {like you|understand|believe you|agree}",
            "{Nonsense|Really|Why|Are you sure}",
        ),
    ),
    Topic(
        "There is no need to be sorry!",
        ("{Sorry|I am sorry|My apologies|Excuse me|Pardon me}[ for that| about that]",),
    ),
)

TECHNICAL = (
    Topic(
        f"Run {SERVE_FROM_SOURCE} in the source folder or, once installed, {SERVE}",
        (
            "How {do|can|should} I {serve|use|run|load|start|try} {my own|a real|another|a bigger|a|my} model",
            "How {do|can} I {serve|use|run|load|start} a {model of my own|model file|GGUF file|GGUF model}",
            "{Serve|Load|Run|Start|Use} {my own|a real|another|a bigger} model[, please]",
            "{Where|How} do I {put|give|pass|set|choose|change} {the|my} model[ file]",
            "{What|What should I do|What do I do} next",
            "What now",
            "How do I {get started|go on|get real answers|get better answers}",
        ),
    ),
    Topic(
        "The program runner-supervisor builds llama-server for your machine, keeps it running, and serves it on one "
        "address with keys and metrics.",
        (
            "What is {runner-supervisor|the runner-supervisor|runner supervisor|this project|this software}",
            "What does {runner-supervisor|runner supervisor|this project|this software|the supervisor} do",
            "[Please ]{tell me about|explain|describe} {runner-supervisor|runner supervisor|this project}",
            "What is {runner-supervisor|runner supervisor} {for|good for}",
        ),
    ),
    Topic(
        "The project llama.cpp runs language models on ordinary machines, with or without a GPU. It is written in C "
        "and C++.",
        (
            "What is {llama.cpp|llama cpp|llamacpp}",
            "What does {llama.cpp|llama cpp} do",
            "{Tell me about|Explain|Describe} {llama.cpp|llama cpp}",
        ),
    ),
    Topic(
        "The program llama-server is the web server of llama.cpp. It loads a model and answers requests over HTTP.",
        (
            "What is {llama-server|llama server|the llama-server}",
            "What does {llama-server|llama server} do",
            "{Tell me about|Explain|Describe} {llama-server|llama server}",
        ),
    ),
    Topic(
        "GGUF is the file format of llama.cpp. One file holds a model's weights, its vocabulary and its settings.",
        (
            "What is {GGUF|a GGUF|a GGUF file|the GGUF format|gguf}",
            "What does {GGUF|gguf} mean",
            "{Tell me about|Explain|Describe} {GGUF|gguf|GGUF files}",
        ),
    ),
    Topic(
        "Press Ctrl-C to stop the service, or run runner-supervisor stop from another terminal.",
        (
            "How {do|can} I {stop|end|quit|exit|shut down|close} {you|this|it|the server|the service|llama-server}",
            "{Stop|Quit|Exit|stop it|Shut down}[ now| please]",
        ),
    ),
    Topic(
        "Run runner-supervisor status to see the state of the engine, its memory and its restarts.",
        (
            "How {do|can} I see {the status|the state|its state|whether it runs|if it works|how it is doing}",
            "{What is|Show me} the {status|state}[ of the server| of the engine]",
        ),
    ),
    Topic(
        "Run runner-supervisor logs to read what llama-server said, and add -f to follow it.",
        (
            "Where {are|do I find} the {logs|log files}",
            "How {do|can} I {read|see|follow|find} the {log|logs}",
            "Show me the logs",
        ),
    ),
    Topic(
        "Run runner-supervisor keys create --name laptop and a new key is shown once.",
        (
            "How {do|can} I {make|create|get|add} {a key|an API key|keys|API keys|a new key}",
            "What is {an|the} API key",
        ),
    ),
    Topic(
        "The default address is http://127.0.0.1:8080 and --port takes another port.",
        (
            "What is {the|your} {address|port|URL}",
            "{Which|What} port {is it|do you use|is used}",
            "How {do|can} I change the port",
            "Where are you {running|served}",
        ),
    ),
    Topic(
        "A token is a piece of text, often a word or a part of one. Models read and write token by token.",
        ("What is a token", "What are tokens", "{Explain|Tell me about} tokens"),
    ),
    Topic(
        "A language model is a program that has learned from much text which word comes next.",
        (
            "What is {a language model|an LLM|a model|a large language model}",
            "How does a language model work",
            "{Explain|Tell me about} {language models|LLMs}",
            "What are {language models|LLMs}",
        ),
    ),
)

PLAY = (
    Topic(
        "Once upon a time a small ship sailed into a storm. A lighthouse shone all night, and in the morning the "
        "ship was home. The end.",
        (
            f"{PLEASE}tell me a[ short| very short| little| nice| small] story[, please| please]",
            f"{PLEASE}{{write|make up}} a[ short| very short| little] {{story|tale}}[ for me| please]",
            "{Do you know a|I want a|Give me a|A} {story|tale}[, please| please]",
            "Tell me a {fairy tale|tale|bedtime story}",
            (
                "{Tell me|Write|Make up} a[ short] {story|tale} about [a |the |my ]"
                "{<words>|dragon|cat|king|robot|princess}"
            ),
            "One more story[, please]",
        ),
    ),
    Topic(
        "The moon looks down on hill and tree, the river hums its way to sea, the stars are out, the wind is low, "
        "and so to sleep the children go.",
        (
            f"{PLEASE}{{write|tell me|recite|make|give me}} a[ short| little| nice] {{poem|rhyme|verse}}[, please]",
            "{A|Do you know a|I want a} {poem|rhyme|haiku}[, please| please]",
            (
                "{Write|Tell me} {a haiku|a[ short] poem|poetry|a sonnet|a song} {about|for} [the |my ]"
                "{<words>|sea|love|spring}"
            ),
            f"{PLEASE}sing[ a song| me a song| something]",
        ),
    ),
    Topic(
        "Why did the llama cross the server? To get to the other slot.",
        (
            f"{PLEASE}tell me a[ good| funny| short| bad] joke[, please| please]",
            "{Do you know a|Do you know any|A|Give me a} {joke|jokes}[, please]",
            "{Make me laugh|Say something funny|Be funny|Another joke}",
        ),
    ),
    Topic(
        "One, two, three, four, five, six, seven, eight, nine, ten.",
        (
            f"{PLEASE}count[ up]{{| from one| from 1}} to {{ten|10}}[, please| for me| please]",
            f"{PLEASE}{{name|list|say}} the numbers {{from one|from 1|one|1}} to {{ten|10}}",
            "Count[ for me| please]",
        ),
    ),
    Topic(
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
        (
            f"{PLEASE}{{name|list|say|tell me|give me}} [all ]the[ seven] {{days of the week|days}}[, please]",
            "What are the[ seven| names of the] {days of the week|weekdays|days}",
            "Which days does a week have",
            "[The ]days of the week",
            "How many days {has a week|does a week have|are in a week|are there in a week}",
        ),
    ),
    Topic(
        "The months are January, February, March, April, May, June, July, August, September, October, November and "
        "December.",
        (
            f"{PLEASE}{{name|list|say|tell me|give me}} [all ]the[ twelve] months[ of the year][, please]",
            "What are the[ twelve] months[ of the year]",
            "[The ]months of the year",
            "How many months {has a year|does a year have|are in a year|are there in a year}",
        ),
    ),
    Topic(
        "The seasons are spring, summer, autumn and winter.",
        (
            f"{PLEASE}{{name|list|tell me}} the[ four] seasons[ of the year][, please]",
            "What are the[ four] seasons",
            "How many seasons {are there|does a year have|has a year}",
        ),
    ),
    Topic(
        "The alphabet begins with A, B, C, D, E and ends with X, Y, Z.",
        (f"{PLEASE}{{say|recite|list|tell me}} the {{alphabet|letters|ABC}}[, please]", "What is the alphabet"),
    ),
)

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a {helpful|kind|friendly|polite} {assistant|model|bot}. Answer {briefly|in short|in one sentence}.",
    "Be {brief|kind|helpful|concise|polite}.",
    "Answer {in English|briefly|every question|as well as you can}.",
    "You are {a pirate|an expert|the demo model|a teacher}.",
)

UNKNOWN_FRAMES = (
    "What is {the meaning of |the best |the name of |the price of |a |}<words>",
    "{How|Why|When|Where} {do|does|did|is|are|can} <words>",
    "How {do|can|should} I <words>",
    "Who {is|was|invented|wrote|won} <words>",
    "Tell me {about|more about|how|why} <words>",
    "{Write|Make|Show me|Give me|Create} {a|an|some|the|ten} <words>",
    "{Write|Explain|Translate|Summarise|Fix|Find|List} <words>",
    "{Can|Could|Will|Would|Do|Should} {you|I|we|they} <words>",
    "{I|We|They|You} {want|think|need|like|know|have|was|am|are} <words>",
    "What {colour|color|kind|time|day|year|number} is <words>",
    "{The|My|A|This|That|Is|If|In|It|There} <words>",
    "What is the capital[ city] of <words>",
    "{Tell me|Name} the capital of <words>",
    "[What is |What's |How much is |Calculate ]<digits> {+|-|times|*|/|plus|minus} <digits>[=]",
    "[What is |What's |How much is ]{1|2|3|4|5|7|9|two|three|six} {+|-|*|plus|times} {1|2|3|4|5|8|two|one|ten}[=]",
    "{1|2|3|5|8}{+|-|*}{1|2|3|4|9}[=]",
    "<digits>",
    "<words>",
    "<words>, <words>",
)
"""How people ask for what it does not know; `<words>` stands for any words, of no language in particular, here and
above."""
